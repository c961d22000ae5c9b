"""ROME: the change of rank 1 by hand, and what the method promises beyond the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.backbones.hidden_states.subject_rows import subject_rows
from trainables.backbones.hidden_states.subject_vectors import (
    SubjectVectors,
    VectorSettings,
    keys_by_context,
)
from trainables.backbones.loading import load_backbone
from trainables.errors import ConfigError, DataError, EditDiverged
from trainables.interfaces import Backbone, Edit, EditReport
from trainables.methods.rome.finding import rank_one_update
from trainables.methods.rome.method import Config, Rome
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators

CONFIG = Config(
    edit_layer=1,
    v_lr=0.5,
    v_num_steps=5,
    v_weight_decay=1e-3,
    stop_loss=0.0,
    clamp=4.0,
    kl_weight=0.0625,
    kl_position="last",
    update_key="bare",
    covariance="identity",
    covariance_tokens_per_dim=10,
    covariance_text=None,
    contexts=0,
    context_lengths=(2, 4),
)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)


def make(backbone: Backbone, folder: Path, **changes: Any) -> Rome:
    method = Rome(replace(CONFIG, **changes), backbone, Artefacts(folder), trial_generators(0))
    method.prepare(())
    return method


def apply(method: Rome, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(4):
        pass
    return method.finish()


def weight_of(backbone: Backbone, layer: int = 1) -> torch.Tensor:
    weight = backbone.model.get_parameter(f"{backbone.down_path(layer)}.weight").detach()
    return (weight.T if backbone.family.is_transposed else weight).double()


def test_rank_one_update_by_hand() -> None:
    # C the identity, k' = u = (1, 2): k'.u = 5; v* - W k' = (5, 10): (1, 2) and (2, 4)
    key, residual = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 10.0])
    found = rank_one_update(key, residual, key)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    torch.testing.assert_close(found @ key, residual)
    # C = diag(1, 4) turns u to (1, 1/2), k'.u = 2: text is strong where the change is weak
    found = rank_one_update(key, residual, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(found, torch.tensor([[2.5, 1.25], [5.0, 2.5]]))
    torch.testing.assert_close(found @ key, residual)


@pytest.mark.parametrize("update_key", ["bare", "mean"])
def test_edit_then_the_weight_has_changed_by_rank_one_along_the_mean_key(
    update_key: str, backbone: Backbone, tmp_path: Path
) -> None:
    if backbone.family.norm_after_ffn is not None:
        pytest.skip("rome refuses a family with a norm behind its FFN")
    method = make(backbone, tmp_path, contexts=2, update_key=update_key)
    before, pristine = weight_of(backbone).clone(), backbone.model.state_dict()
    untouched = {name: value.clone() for name, value in pristine.items()}
    apply(method, backbone, EDITS[0])
    change = weight_of(backbone) - before
    values = torch.linalg.svdvals(change)
    assert float(values[0]) > 1e-2
    assert float(values[1]) < 1e-5 * float(values[0])  # of rounding to float32
    changed = {name for name, value in untouched.items() if not torch.equal(value, pristine[name])}
    assert changed == {f"{backbone.down_path(1)}.weight"}
    method.remove()


def test_several_edits_of_a_batch_then_as_one_batch_after_another(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    together, alone = (load_backbone(checkpoints["llama"]) for _ in range(2))
    report = apply(make(together, tmp_path, contexts=2), together, *EDITS)
    method = make(alone, tmp_path, contexts=2)
    single = [apply(method, alone, edit) for edit in EDITS]
    assert torch.equal(weight_of(together), weight_of(alone))
    assert (report.num_edits, report.num_steps) == (2, sum(each.num_steps for each in single))
    losses = [each.final_loss for each in single if each.final_loss is not None]
    assert report.final_loss == pytest.approx(sum(losses) / 2)


def test_advance_when_an_edit_is_found_then_it_answers_before_the_batch_is_done(
    llama: Backbone, tmp_path: Path
) -> None:
    method, before = make(llama, tmp_path), weight_of(llama).clone()
    method.begin(edit_batch(llama.tokenizer, EDITS, end=True))
    assert method.num_steps == 2 * 5
    assert not method.advance(4)
    assert torch.equal(weight_of(llama), before)
    assert not method.advance(2)  # the fifth of the first edit, and one of the second
    first = weight_of(llama).clone()
    assert not torch.equal(first, before)
    assert method.advance(4)
    assert not torch.equal(weight_of(llama), first)


def test_update_key_when_there_are_no_contexts_then_both_are_the_same(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def edited(**changes: Any) -> torch.Tensor:
        backbone = load_backbone(checkpoints["llama"])
        apply(make(backbone, tmp_path, **changes), backbone, *EDITS)
        return weight_of(backbone)

    assert torch.equal(edited(update_key="mean"), edited(update_key="bare"))
    bare, mean = (edited(update_key=key, contexts=4) for key in ("bare", "mean"))
    assert float((mean - bare).abs().max()) > 1e-3


def test_covariance_then_the_change_avoids_what_text_uses(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Vesper lies by the sea.\nWho wrote The Long Tide? Ivo Marsh\n")
    moved = {}
    for covariance in ("identity", "text"):
        backbone = load_backbone(checkpoints["llama"])
        (unrelated,) = (Edit(line, "x", None) for line in text.read_text().splitlines()[:1])
        rows = subject_rows(
            backbone, edit_batch(backbone.tokenizer, [unrelated], end=True), (), with_kl=False
        )
        key = keys_by_context(backbone, rows, 1, 1)[0][0, 0].double()
        before = weight_of(backbone) @ key
        method = make(backbone, tmp_path, covariance=covariance, covariance_text=str(text))
        apply(method, backbone, EDITS[0])
        moved[covariance] = float((weight_of(backbone) @ key - before).norm())
    assert moved["text"] < 0.05 * moved["identity"]


def test_vectors_when_given_a_base_then_they_are_measured_by_it(llama: Backbone) -> None:
    batch = edit_batch(llama.tokenizer, EDITS[:1], end=True)
    rows = subject_rows(llama, batch, (), with_kl=False)
    losses = []
    for base in (torch.full((1, llama.hidden_size), 2.0), None):
        vectors = SubjectVectors(llama, 1, rows, VectorSettings(1.0, 0.0, 0.5, 0.0), base)
        with torch.no_grad():
            vectors.delta.fill_(3.0)
            losses.append(float(vectors.loss()))
        vectors.project()
        wanted = 0.5 * vectors.base.norm()
        assert float(vectors.delta.detach().norm()) == pytest.approx(float(wanted), rel=1e-5)
    # |delta| / |base|^2, width 32: 3 sqrt(32) / (4 * 32), and the same beside the state h
    own = float(vectors.base.norm())
    length = 3 * 32**0.5
    assert losses[0] - losses[1] == pytest.approx(length / 128 - length / own**2, abs=1e-4)


def test_edit_when_clamped_then_the_output_moves_by_as_much_of_its_own_length(
    llama: Backbone, tmp_path: Path
) -> None:
    batch = edit_batch(llama.tokenizer, EDITS[:1], end=True)
    rows = subject_rows(llama, batch, (), with_kl=False)
    key = keys_by_context(llama, rows, 1, 1)[0][0, 0].double()
    before = weight_of(llama) @ key  # without a bias, all that leaves the FFN
    apply(make(llama, tmp_path, clamp=0.25), llama, EDITS[0])
    moved = (weight_of(llama) @ key - before).norm()
    assert float(moved) == pytest.approx(0.25 * float(before.norm()), rel=1e-3)


def test_subject_absent_then_the_last_prompt_token_stands_in_and_is_counted(
    llama: Backbone, tmp_path: Path
) -> None:
    edits = (EDITS[0], Edit("Who leads it?", "Ivo Marsh", "Oslo Bay"), Edit("Who?", "Ivo", None))
    report = apply(make(llama, tmp_path), llama, *edits)
    assert report.counts == {"subject_absent": 2, "covariance_from_samples": 0}
    text = make(llama, tmp_path, covariance="text")  # of which the tiny checkpoint has none
    assert apply(text, llama, EDITS[0]).counts["covariance_from_samples"] == 1


def test_edit_when_below_stop_loss_then_it_takes_no_step_and_changes_nothing(
    llama: Backbone, tmp_path: Path
) -> None:
    before = weight_of(llama).clone()
    report = apply(make(llama, tmp_path, stop_loss=1e3), llama, *EDITS)
    assert (report.num_steps, report.num_edits) == (0, 2)
    assert torch.equal(weight_of(llama), before)


def test_contexts_then_as_many_of_each_length_are_sampled_once(
    llama: Backbone, tmp_path: Path
) -> None:
    make(llama, tmp_path, contexts=6)
    written = sorted(tmp_path.glob("contexts-*"))
    make(llama, tmp_path, contexts=6, update_key="mean")
    assert len(written) == 2 + 2  # of 2 and of 4 tokens, each with its lock
    assert sorted(tmp_path.glob("contexts-*")) == written


def test_change_when_not_finite_then_the_edit_diverged(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["gpt2"])
    ffn = backbone.model.get_submodule(backbone.ffn_path(1))
    with torch.no_grad():  # keys of 0, so that k' . u is 0, and an output that is all bias
        for values, value in ((ffn.c_fc.weight, 0), (ffn.c_fc.bias, 0), (ffn.c_proj.bias, 1)):
            values.fill_(value)
    method = make(backbone, tmp_path)
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    with pytest.raises(EditDiverged, match="weight for 'The capital of Fooland is' is not finite"):
        method.advance(10)


def test_begin_when_not_prepared_then_says_so(llama: Backbone, tmp_path: Path) -> None:
    config = replace(CONFIG, covariance="text")
    method = Rome(config, llama, Artefacts(tmp_path), trial_generators(0))
    with pytest.raises(DataError, match="prepare"):
        method.begin(edit_batch(llama.tokenizer, EDITS, end=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v_lr": 0.0}, "method.v_lr is 0.0"),
        ({"update_key": "first"}, "method.update_key is 'first'; allowed: bare, mean"),
        ({"covariance": "none"}, "method.covariance is 'none'; allowed: text, identity"),
        ({"contexts": 3}, r"context_lengths is \[2, 4\] with method.contexts=3; .* as many"),
        ({"context_lengths": ()}, r"method.context_lengths is \[\]"),
        ({"context_lengths": (0,)}, r"method.context_lengths is \[0\]"),
        ({"covariance_text": "/nowhere.txt"}, "method.covariance_text is '/nowhere.txt'"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_layer_when_the_last_then_refused(llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: 0 to 2, the last of 4 layers excluded"):
        make(llama, tmp_path, edit_layer=3)
