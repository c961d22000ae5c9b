"""MEND and MALMEN as methods: what their networks are trained on, and what they leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from trainables.artefacts import Artefacts
from trainables.assemblies import trainer
from trainables.assemblies.trained_editor.editor import TrainedEditor, edited_paths
from trainables.assemblies.trained_editor.problems import (
    Problem,
    ProblemSettings,
    drawn_problem,
    token_terms,
)
from trainables.assemblies.trained_editor.training import Training
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.bases import read_method
from trainables.errors import ConfigError, DataError, EditDiverged
from trainables.interfaces import Backbone, Edit, PromptBatch, Question, TrainingRecord
from trainables.methods import build_config, get_method, method_settings
from trainables.prompts import edit_batch
from trainables.seeding import generator, trial_generators

SMALL: dict[str, Any] = {
    "layers": [1, 3],
    "network_rank": 4,
    "edit_lr": 1e-2,
    "training_lr": 1e-2,
    "training_steps": 3,
    "edits_at_once": 2,
    "problems_per_step": 1,
    "validate_every": 1,
}
RECORDS = tuple(
    TrainingRecord(
        Edit(f"Where was {name} born?", place, name),
        (f"{name} was born in", f"The home of {name} is"),
        (Question(f"Who leads {name}?", "Ada", "locality_same"),),
    )
    for name, place in (("Ada Quell", "Vesper"), ("Ivo Marsh", "Bar City"), ("Tom Oak", "Oslo Bay"))
)
EDITS = (Edit("The capital of Fooland is", "Bar City"), Edit("Ada Quell works for", "Lumen"))
NAMES = ("malmen", "mend")


def make(name: str, backbone: Backbone, folder: Path, **changes: Any) -> Any:
    settings = {**method_settings(read_method(name)), **SMALL, **changes}
    config, (_, method) = build_config(name, settings), get_method(name)
    return method(config, backbone, Artefacts(folder), trial_generators(0))


def prepared(name: str, backbone: Backbone, folder: Path, **changes: Any) -> Any:
    method = make(name, backbone, folder, **changes)
    method.prepare(RECORDS)
    return method


def apply(method: Any, backbone: Backbone) -> Any:
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    assert method.advance(1)
    return method.finish()


def weights_of(backbone: Backbone) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in backbone.model.named_parameters()}


def trainee(name: str, backbone: Backbone, folder: Path) -> tuple[TrainedEditor, Training]:
    editor: TrainedEditor = make(name, backbone, folder)
    return editor, editor.trainee(RECORDS)


def test_edited_paths_are_those_that_a_family_has(backbone: Backbone) -> None:
    paths = edited_paths(backbone, (1, 3), ("gate", "up", "down"))
    family = backbone.family
    per_layer = 3 if family.gate and not family.is_fused else 2
    assert len(set(paths)) == len(paths) == 2 * per_layer
    assert all(f"{path}.weight" in dict(backbone.model.named_parameters()) for path in paths)
    if family.gate is None:
        with pytest.raises(ConfigError, match=r"modules is \['gate'\]; family .* has none"):
            edited_paths(backbone, (1,), ("gate",))


@pytest.mark.parametrize("name", NAMES)
def test_second_trial_when_the_same_network_is_wanted_then_trains_nothing(
    name: str, llama: Backbone, tmp_path: Path
) -> None:
    method = prepared(name, llama, tmp_path)
    first = apply(method, llama)
    changed = weights_of(llama)
    method.remove()
    (stored,) = tmp_path.glob("editor-*/tensors.safetensors")
    before = stored.stat().st_mtime_ns
    again = apply(prepared(name, llama, tmp_path), llama)
    assert stored.stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("editor-*.lock"))) == 1
    assert first.numbers == again.numbers
    assert all(torch.equal(own, changed[key]) for key, own in weights_of(llama).items())


@pytest.mark.parametrize(
    "changes", [{"network_rank": 3}, {"edit_lr": 2e-2}, {"training_seed": 1}, {"layers": [1]}]
)
@pytest.mark.parametrize("name", NAMES)
def test_network_when_what_shapes_it_differs_then_is_another(
    name: str, changes: dict[str, Any], llama: Backbone, tmp_path: Path
) -> None:
    prepared(name, llama, tmp_path)
    prepared(name, llama, tmp_path, **changes)
    assert len(list(tmp_path.glob("editor-*/meta.json"))) == 2


@pytest.mark.parametrize("name", NAMES)
def test_network_when_another_trial_s_seed_then_is_the_same(
    name: str, llama: Backbone, tmp_path: Path
) -> None:
    prepared(name, llama, tmp_path)
    made = get_method(name)[1](
        build_config(name, {**method_settings(read_method(name)), **SMALL}),
        llama,
        Artefacts(tmp_path),
        trial_generators(7),
    )
    made.prepare(RECORDS)
    assert len(list(tmp_path.glob("editor-*/meta.json"))) == 1


def whole_loss(
    backbone: Backbone, problem: Problem, changes: Mapping[str, Tensor], settings: ProblemSettings
) -> Tensor:
    """L by the whole backbone, with weights that are part of the graph; row by row."""
    weights = {
        f"{path}.weight": backbone.model.get_parameter(f"{path}.weight") + change
        for path, change in changes.items()
    }

    def logits(tokens: PromptBatch, changed: Mapping[str, Tensor]) -> list[Tensor]:
        inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
        inputs["position_ids"] = tokens.position_ids
        found = functional_call(backbone.model, dict(changed), kwargs=inputs).logits
        return [row[scored] for row, scored in zip(found, tokens.scored, strict=True)]

    rephrases, unrelated = problem.rephrases, problem.unrelated
    assert unrelated is not None
    counts = rephrases.tokens.scored_counts
    nll = [
        torch.nn.functional.cross_entropy(own, wanted)
        for own, wanted in zip(
            logits(rephrases.tokens, weights), rephrases.wanted.split(counts), strict=True
        )
    ]
    with torch.no_grad():
        before = logits(unrelated.tokens, {})
    kept = [
        torch.nn.functional.kl_div(
            after.log_softmax(-1), own.log_softmax(-1), log_target=True, reduction="batchmean"
        )
        for own, after in zip(before, logits(unrelated.tokens, weights), strict=True)
    ]
    return (
        settings.edit_weight * torch.stack(nll).mean()
        + settings.locality_weight * torch.stack(kept).mean()
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_back_give_the_gradient_of_one_through_backbone_and_network(
    name: str, llama: Backbone, tmp_path: Path
) -> None:
    editor, training = trainee(name, llama, tmp_path)
    networks = training.networks
    with torch.no_grad():
        for number, parameter in enumerate(networks.networks.parameters()):
            noise = torch.randn(parameter.shape, generator=generator(number, "noise"))
            parameter.add_(0.1 * noise)
    problem, factors = editor.problem(RECORDS[:2], generator(0, "draws"))
    changes = dict(networks.changes(factors))
    loss, gradients = editor.judged(problem, changes, is_training=True)
    networks.pull_back(factors, gradients)
    parameters = list(networks.networks.parameters())
    found = [parameter.grad.clone() for parameter in parameters]  # type: ignore[union-attr]
    linked = {
        path: networks.rule.shift(number, own.keys, networks.networks.pseudo(path, own)).float()
        for number, (path, own) in enumerate(factors.items())
    }
    whole = whole_loss(llama, problem, linked, editor.problem_settings)
    assert loss == pytest.approx(float(whole.detach()), rel=1e-4)
    for actual, expected in zip(found, torch.autograd.grad(whole, parameters), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * scale)


def test_untrained_mend_without_normalisation_is_a_plain_gradient_step(
    llama: Backbone, tmp_path: Path
) -> None:
    editor, training = trainee("mend", llama, tmp_path)
    for network in training.networks.networks.networks:
        network.mean.zero_()  # type: ignore[union-attr, operator]
        network.deviation.fill_(1.0)  # type: ignore[union-attr, operator]
    problem, factors = editor.problem(RECORDS[:2], generator(0, "draws"))
    batch = problem.edits
    weights = {path: llama.model.get_parameter(f"{path}.weight") for path in factors}
    for weight in weights.values():
        weight.requires_grad_(True)
    split = Split(llama, 1, PrefixCache())
    losses = split.per_token(token_terms, batch.tokens, batch.labels, torch.ones(len(batch.labels)))
    counts = torch.tensor(batch.tokens.scored_counts).repeat_interleave(
        torch.tensor(batch.tokens.scored_counts)
    )
    expected = torch.autograd.grad((losses / counts).sum(), list(weights.values()))
    for weight in weights.values():
        weight.requires_grad_(False)
    for change, gradient in zip(
        dict(training.networks.changes(factors)).values(), expected, strict=True
    ):
        torch.testing.assert_close(change, -1e-2 * gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_training_leaves_the_backbone_as_it_was_bit_for_bit(
    name: str, dtype: Any, checkpoints: Mapping[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["gpt2"], dtype=dtype)
    pristine = Pristine(backbone.model)
    prepared(name, backbone, tmp_path, modules=["up", "down"])
    pristine.check()
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_training_when_its_state_is_taken_up_then_goes_on_bit_for_bit(
    name: str, llama: Backbone, tmp_path: Path
) -> None:
    editor, first = trainee(name, llama, tmp_path)
    second = editor.trainee(RECORDS)  # with the same hidden states: rounding depends on company
    first.step(RECORDS[:2], generator(0, "a"))
    state = first.state()
    second.load(type(state)({k: v.clone() for k, v in state.tensors.items()}, state.values))
    for own in (first, second):
        own.step(RECORDS[1:], generator(0, "b"))
    pairs = zip(first.state().tensors.items(), second.state().tensors.items(), strict=True)
    for (key, ours), (other, theirs) in pairs:
        assert key == other
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize("name", NAMES)
def test_network_when_rows_run_one_at_a_time_then_is_the_same(
    name: str, llama: Backbone, tmp_path: Path
) -> None:
    losses = []
    for limit in (None, 1):
        llama.micro_batch.limit = limit
        _, training = trainee(name, llama, tmp_path)
        losses.append([training.step(RECORDS[:2], generator(n, "a")) for n in range(3)])
    llama.micro_batch.limit = None
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_of_what_it_learns_from(
    name: str, llama: Backbone, tmp_path: Path
) -> None:
    _, training = trainee(name, llama, tmp_path)
    before = training.loss(RECORDS, generator(0, "same"))
    for step in range(15):
        training.step(RECORDS[:2], generator(step, "draws"))
    assert training.loss(RECORDS, generator(0, "same")) < before


def test_loss_when_the_last_problem_has_fewer_edits_then_it_counts_by_them(
    llama: Backbone, tmp_path: Path
) -> None:
    editor, training = trainee("malmen", llama, tmp_path)  # two edits at once
    found, draws = training.loss(RECORDS, generator(0, "same")), generator(0, "same")
    losses = []
    for own in (RECORDS[:2], RECORDS[2:]):
        problem, factors = editor.problem(own, draws)
        changes = dict(training.networks.changes(factors))
        losses.append(editor.judged(problem, changes, is_training=False)[0])
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)
    assert found == pytest.approx((2 * losses[0] + losses[1]) / 3)


def test_prepare_when_there_is_nothing_to_train_on_then_says_so(
    llama: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"method mend trains a network .* of 0 records none"):
        make("mend", llama, tmp_path).prepare(())
    without = [replace(record, unrelated=()) for record in RECORDS]
    with pytest.raises(DataError, match="of 3 records none has one"):
        make("malmen", llama, tmp_path).prepare(without)
    with pytest.raises(DataError, match="there are 3, of which 1 are held out, and"):
        make("malmen", llama, tmp_path, edits_at_once=512).prepare(RECORDS)
    method = make("mend", llama, tmp_path)
    method.begin(edit_batch(llama.tokenizer, EDITS, end=True))
    with pytest.raises(DataError, match=r"mend has no network: prepare\(\) comes before"):
        method.finish()


def test_prepare_when_a_record_is_longer_than_the_positions_then_is_left_out(
    llama: Backbone, tmp_path: Path
) -> None:
    long = TrainingRecord(Edit("long " * 80, "end", "long"), (), RECORDS[0].unrelated)
    made = make("mend", llama, tmp_path, edits_at_once=1)
    made.prepare((*RECORDS, long))
    made.prepare(RECORDS)
    assert len(list(tmp_path.glob("editor-*/meta.json"))) == 1


def test_training_when_it_diverges_then_ends_as_diverged(
    llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(EditDiverged):
        prepared("mend", llama, tmp_path, training_lr=1e30)
    assert not list(tmp_path.glob("editor-*/meta.json"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": []}, r"method.layers is \[\]; name at least one"),
        ({"layers": [1, 1]}, r"method.layers is \[1, 1\]; name at least one, and each once"),
        ({"layers": [1, 4]}, r"method.layers is \[1, 4\]; allowed: 0 to 3"),
        ({"modules": ["q"]}, "method.modules is"),
        ({"held_out": 1.0}, "method.held_out is 1.0"),
        ({"training_lr": 0.0}, "method.training_lr is 0.0"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_settings_when_out_of_range_then_are_refused_in_one_line(
    name: str, changes: dict[str, Any], words: str, llama: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make(name, llama, tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_problem_when_an_edit_asks_an_unrelated_question_of_another_then_it_is_left_out(
    llama: Backbone,
) -> None:
    asking = replace(
        RECORDS[0], unrelated=(Question(RECORDS[1].edit.prompt, "Oslo", "locality_near"),)
    )
    settings = ProblemSettings(1.0, 1.0, keeps_all_tokens=False)
    split = Split(llama, 1, PrefixCache())
    alone = drawn_problem([asking], settings, split, generator(0, "a"))
    assert alone.unrelated is not None
    both = drawn_problem([asking, RECORDS[1]], settings, split, generator(0, "a"))
    assert both.unrelated is not None
    assert len(both.unrelated.tokens.input_ids) == 1  # that of the other record
    assert (
        drawn_problem([replace(asking, unrelated=())], settings, split, generator(0, "a")).unrelated
        is None
    )


def test_problem_weighs_all_rows_alike_and_both_terms_as_told(llama: Backbone) -> None:
    settings = ProblemSettings(0.1, 3.0, keeps_all_tokens=True)
    problem = drawn_problem(RECORDS, settings, Split(llama, 1, PrefixCache()), generator(0, "a"))
    assert problem.unrelated is not None
    for asked, weight in ((problem.rephrases, 0.1), (problem.unrelated, 3.0)):
        counts = asked.tokens.scored_counts
        sums = torch.stack([own.sum() for own in asked.weights.split(counts)])
        torch.testing.assert_close(sums, torch.full((3,), weight / 3))
    tokens = problem.unrelated.tokens
    assert torch.equal(tokens.scored, tokens.attention_mask.bool())
