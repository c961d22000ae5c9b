"""MEMIT: the closed form by hand, and what the method promises beyond the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.assemblies.spread_editor import SpreadEditor
from trainables.assemblies.spread_vectors import least_squares_update
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.sampled_text import sampled_contexts
from trainables.backbones.hidden_states.subject_rows import subject_rows
from trainables.backbones.hidden_states.subject_vectors import (
    SubjectVectors,
    VectorSettings,
    keys_and_states,
)
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Backbone, Edit, EditReport, TrainingRecord
from trainables.methods.memit import Config, memit
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators
from trainables.states import snapshot

CONFIG = Config(
    layers=(1, 2),
    v_lr=0.5,
    v_num_steps=6,
    v_weight_decay=1e-3,
    stop_loss=5e-2,
    clamp=4.0,
    kl_weight=0.0625,
    kl_position="last",
    cov_weight=1e-4,
    contexts=0,
    context_length=4,
    covariance_tokens_per_dim=10,
    covariance_text=None,
    accumulate_keys=False,
)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)
LATER = (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),)
TRAINING = (
    Edit("Lumen Works was founded in", "Oslo Bay", "Lumen Works", ("Who wrote it?",)),
    Edit("Ivo Marsh lives in", "Vesper", "Ivo Marsh"),
)


def make(backbone: Backbone, folder: Path, **changes: Any) -> SpreadEditor:
    config = replace(CONFIG, **changes)
    method = memit(config, backbone, Artefacts(folder), trial_generators(0))
    method.prepare([TrainingRecord(edit) for edit in TRAINING])
    return method


def apply(method: SpreadEditor, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(4):
        pass
    return method.finish()


def test_least_squares_update_when_one_key_then_shared_with_the_old_ones() -> None:
    # old = diag(1, 2), k = (1, 1): system [[2, 1], [1, 3]], X = [[3, -1], [-1, 2]] / 5 k = (.4, .2)
    # r = (5, 10): R X^T = [[2, 1], [4, 2]]
    keys, residuals = torch.tensor([[1.0], [1.0]]), torch.tensor([[5.0], [10.0]])
    old = torch.diag(torch.tensor([1.0, 2.0]))
    update = least_squares_update(keys.double(), residuals.double(), old.double())
    expected = torch.tensor([[2.0, 1.0], [4.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(update, expected, atol=1e-6, rtol=0)


def test_least_squares_update_when_old_vanishes_interpolates_and_when_huge_does_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    residuals = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    eye = torch.eye(6, dtype=torch.float64)
    light, heavy = (least_squares_update(keys, residuals, scale * eye) for scale in (1e-9, 1e12))
    torch.testing.assert_close(light @ keys, residuals, atol=1e-5, rtol=0)
    assert float(heavy.abs().max()) < 1e-10


@pytest.mark.parametrize("layers", [(1,), (0, 1, 2)])
def test_finish_when_cov_weight_is_tiny_then_subjects_reach_their_vectors(
    layers: tuple[int, ...], backbone: Backbone, tmp_path: Path
) -> None:
    if backbone.family.norm_after_ffn is not None:
        pytest.skip("memit refuses a family with a norm behind its FFN")
    method = make(backbone, tmp_path, layers=layers, cov_weight=1e-9)
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    rows = subject_rows(backbone, batch, (), with_kl=False)
    before = keys_and_states(backbone, rows, layers[-1], layers[-1])[1]
    method.begin(batch)
    method.advance(3)
    delta = snapshot(method.state()).tensors["vectors/delta"]
    untouched = {k: v.clone() for k, v in backbone.model.state_dict().items()}
    method.finish()
    after = keys_and_states(backbone, rows, layers[-1], layers[-1])[1]
    assert float(delta.norm(dim=1).min()) > 1
    torch.testing.assert_close(after, before + delta, atol=1e-2, rtol=0)
    written = {f"{backbone.down_path(layer)}.weight" for layer in layers}
    changed = {
        k for k, v in backbone.model.state_dict().items() if not torch.equal(v, untouched[k])
    }
    assert changed == written
    method.remove()


def test_edits_when_their_rows_do_not_run_at_once_then_found_one_part_after_another(
    llama: Backbone, tmp_path: Path
) -> None:
    edits = (*EDITS, *LATER)
    batch = edit_batch(llama.tokenizer, edits, end=True)
    method = make(llama, tmp_path)
    whole = apply(method, llama, *edits)
    expected = method.logits(batch.tokens)[0]
    method.remove()
    llama.micro_batch.limit = 4  # rows: two edits, each with one that must stay
    method.begin(batch)
    assert method.num_steps == 2 * CONFIG.v_num_steps
    assert not method.advance(CONFIG.v_num_steps + 1)  # in the middle of the second part
    state = snapshot(method.state())
    assert (len(state.tensors["found/delta"]), len(state.tensors["vectors/delta"])) == (2, 1)
    method.remove()
    other = make(llama, tmp_path)
    other.load(state)
    while not other.advance(1):
        pass
    report = other.finish()
    torch.testing.assert_close(other.logits(batch.tokens)[0], expected, atol=1e-3, rtol=0)
    assert report.final_loss == pytest.approx(whole.final_loss, abs=1e-4)
    assert (report.num_edits, report.counts) == (3, whole.counts)
    other.remove()


def test_finish_when_cov_weight_is_huge_then_nothing_moves(llama: Backbone, tmp_path: Path) -> None:
    method = make(llama, tmp_path, cov_weight=1e15)
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    before, _ = method.logits(batch.tokens)
    apply(method, llama, *EDITS)
    torch.testing.assert_close(method.logits(batch.tokens)[0], before, atol=1e-4, rtol=0)


def test_accumulate_keys_then_earlier_edits_are_moved_less(llama: Backbone, tmp_path: Path) -> None:
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    rows = subject_rows(llama, batch, (), with_kl=False)
    moved = []
    for accumulate_keys in (False, True):
        method = make(llama, tmp_path, layers=(1,), accumulate_keys=accumulate_keys)
        apply(method, llama, *EDITS)
        before = keys_and_states(llama, rows, 1, 1)[1]
        apply(method, llama, *LATER)
        moved.append(float((keys_and_states(llama, rows, 1, 1)[1] - before).norm()))
        method.remove()
    assert moved[1] < 0.1 * moved[0]


def test_subject_absent_then_the_last_prompt_token_stands_in_and_is_counted(
    llama: Backbone, tmp_path: Path
) -> None:
    edits = (EDITS[0], Edit("Who leads it?", "Ivo Marsh", "Oslo Bay"), Edit("Who?", "Ivo", None))
    batch = edit_batch(llama.tokenizer, edits, end=True)
    rows = subject_rows(llama, batch, (), with_kl=True)
    lengths = batch.tokens.prompt_lengths.tolist()
    # "... Fooland is": the last token of the subject stands before " is"
    is_length = len(llama.tokenizer(" is", add_special_tokens=False)["input_ids"])
    columns = rows.columns.tolist()[:3]
    assert columns == [lengths[0] - 1 - is_length, lengths[1] - 1, lengths[2] - 1]
    assert rows.owner.tolist() == [0, 1, 2, 0, 1]  # no KL row without any subject
    assert apply(make(llama, tmp_path), llama, *edits).counts == {
        "subject_absent": 2,
        "covariance_from_samples": 1,  # the tiny checkpoint has no text of its own
    }


def test_vectors_when_below_stop_loss_then_stay_where_they_are(
    llama: Backbone, tmp_path: Path
) -> None:
    losses = make_vectors(llama, 0.0).losses_at_zero
    between = float(losses.mean())  # settles the easier edit at once, not the other
    method = make(llama, tmp_path, stop_loss=between)
    method.begin(edit_batch(llama.tokenizer, EDITS, end=True))
    method.advance(1)
    still = method.state().tensors["vectors/delta"].norm(dim=1) == 0
    assert still.tolist() == (losses < between).tolist()
    assert sorted(still.tolist()) == [False, True]
    everything = make(llama, tmp_path, stop_loss=1e3)
    assert apply(everything, llama, *EDITS).num_steps == 0


class _Started:
    def __init__(self, vectors: SubjectVectors) -> None:
        self.vectors = vectors
        vectors.loss()
        self.losses_at_zero = vectors.losses.clone()


def make_vectors(backbone: Backbone, stop_loss: float, clamp: float = 4.0) -> _Started:
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    rows = subject_rows(backbone, batch, (), with_kl=True)
    settings = VectorSettings(1e-3, stop_loss, clamp, 0.0625)
    return _Started(SubjectVectors(backbone, 1, rows, settings))


def test_project_when_a_vector_is_long_then_on_its_ball_in_its_direction(llama: Backbone) -> None:
    vectors = make_vectors(llama, 0.0, clamp=0.5).vectors
    with torch.no_grad():
        vectors.delta[0] = 3 * vectors.base[0]
        vectors.delta[1] = 0.25 * vectors.base[1]
    vectors.project()
    expected = torch.stack([0.5 * vectors.base[0], 0.25 * vectors.base[1]])
    torch.testing.assert_close(vectors.delta.detach(), expected)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_batch_when_padded_on_either_side_then_the_same_rows(
    padding_side: Any, llama: Backbone
) -> None:
    batch = edit_batch(llama.tokenizer, EDITS, end=True, padding_side=padding_side)
    rows = subject_rows(llama, batch, (), with_kl=False)
    real = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch.tokens.input_ids, batch.tokens.attention_mask, strict=True)
    ]
    padded = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(rows.tokens.input_ids, rows.tokens.attention_mask, strict=True)
    ]
    assert padded == real
    assert int(rows.tokens.scored.sum()) == len(batch.labels)


def test_contexts_then_sampled_once_and_weighed_as_one_beside_the_bare_prompt(
    llama: Backbone, tmp_path: Path
) -> None:
    split = Split(llama, 0, PrefixCache())
    texts = sampled_contexts(split, 3, 4, seed=0)
    assert texts == sampled_contexts(split, 3, 4, seed=0)
    assert [text.split()[0][:3] for text in texts] == ["The", "The", "Bec"]
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    keys = [
        keys_and_states(llama, subject_rows(llama, batch, chosen, with_kl=True), 1, 2)[0]
        for chosen in ([], texts[:1], texts[1:], texts)
    ]
    bare, first, others, together = keys
    # first = (bare + c1) / 2 and others = (bare + (c2 + c3) / 2) / 2
    in_contexts = ((2 * first - bare) + 2 * (2 * others - bare)) / 3
    torch.testing.assert_close(together, (bare + in_contexts) / 2, atol=1e-5, rtol=0)
    report = apply(make(llama, tmp_path, contexts=3), llama, *EDITS)
    assert report.num_steps == CONFIG.v_num_steps


def test_prepare_then_moments_come_from_the_store_the_second_time(
    llama: Backbone, tmp_path: Path
) -> None:
    first = make(llama, tmp_path, contexts=2)
    written = sorted(path.name for path in tmp_path.glob("*/meta.json"))
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    apply(first, llama, *EDITS)
    after, _ = first.logits(batch.tokens)
    first.remove()
    second = make(llama, tmp_path, contexts=2)
    assert sorted(path.name for path in tmp_path.glob("*/meta.json")) == written
    assert len(written) == 4  # two layers, the contexts, and the passages that were sampled
    apply(second, llama, *EDITS)
    assert torch.equal(second.logits(batch.tokens)[0], after)


def test_begin_when_not_prepared_then_says_so(llama: Backbone, tmp_path: Path) -> None:
    method = memit(CONFIG, llama, Artefacts(tmp_path), trial_generators(0))
    with pytest.raises(DataError, match="prepare"):
        method.begin(edit_batch(llama.tokenizer, EDITS, end=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": ()}, r"method.layers is \[\]"),
        ({"layers": (1, 1)}, "stands there twice"),
        ({"cov_weight": 0.0}, "method.cov_weight is 0.0"),
        ({"kl_weight": -1.0}, "method.kl_weight is -1.0"),
        ({"kl_position": "first"}, "method.kl_position is 'first'; allowed: last, subject"),
        ({"v_num_steps": 0}, "method.v_num_steps is 0"),
        ({"covariance_text": "/nowhere.txt"}, "method.covariance_text is '/nowhere.txt'"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_layers_when_the_last_is_among_them_then_refused(llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: 0 to 2, the last of 4 layers excluded"):
        memit(replace(CONFIG, layers=(2, 3)), llama, Artefacts(tmp_path), trial_generators(0))
