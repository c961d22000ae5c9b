from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit
from trainables.methods.ft import Config, FineTuning, Passes
from trainables.prompts import edit_batch, row_index, tokenise
from trainables.seeding import trial_generators

EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)


def config(**changes: object) -> Config:
    values = {
        "edit_layer": 2,
        "loss": "target_new",
        "edit_lr": 0.01,
        "num_steps": 8,
        "stop_loss": 0.01,
        "norm_bound": None,
        "mini_batch_size": None,
    }
    return Config(**{**values, **changes})  # type: ignore[arg-type]


def edited(settings: Config, backbone: Backbone, tmp_path: Path) -> FineTuning:
    method = FineTuning(settings, backbone, Artefacts(tmp_path), trial_generators(0))
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=False))
    method.advance(settings.num_steps)
    return method


def test_norm_bound_keeps_every_weight_inside_the_box(backbone: Backbone, tmp_path: Path) -> None:
    weight = backbone.model.get_parameter(f"{backbone.down_path(2)}.weight")
    pristine = weight.detach().clone()
    edited(config(norm_bound=0.003), backbone, tmp_path)
    change = (weight - pristine).abs().max().item()
    # 8 steps of Adam at .01 would carry entries far beyond the box
    assert change == pytest.approx(0.003, abs=1e-6)


def test_norm_bound_in_a_second_batch_is_still_around_the_pristine_weight(
    llama: Backbone, tmp_path: Path
) -> None:
    weight = llama.model.get_parameter(f"{llama.down_path(2)}.weight")
    pristine = weight.detach().clone()
    method = edited(config(norm_bound=0.003), llama, tmp_path)
    method.finish()
    method.begin(edit_batch(llama.tokenizer, EDITS, end=False))
    method.advance(8)
    assert (weight - pristine).abs().max().item() == pytest.approx(0.003, abs=1e-6)


def first_loss(settings: Config, backbone: Backbone, tmp_path: Path) -> float:
    method = FineTuning(settings, backbone, Artefacts(tmp_path), trial_generators(0))
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=False))
    method.advance(1)
    loss = method.finish().final_loss
    method.remove()
    assert loss is not None
    return loss


@torch.no_grad()
def losses_by_hand(backbone: Backbone, *, at_prompt_end: bool) -> float:
    """Mean over edits of the mean over target tokens of -ln p, row by row through the model."""
    means = []
    for edit in EDITS:
        row = tokenise(backbone.tokenizer, edit.prompt, edit.target_new)
        logs = backbone.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        end = row.prompt_length - 1
        each = [
            -logs[end if at_prompt_end else end + index, token].item()
            for index, token in enumerate(row.target)
        ]
        means.append(sum(each) / len(each))
    return sum(means) / len(means)


def test_prompt_last_loss_asks_the_last_prompt_token_for_every_target_token(
    backbone: Backbone, tmp_path: Path
) -> None:
    expected = losses_by_hand(backbone, at_prompt_end=True)
    loss = first_loss(config(loss="prompt_last"), backbone, tmp_path)
    assert loss == pytest.approx(expected, abs=1e-4)


def test_target_new_loss_asks_each_position_for_its_own_token(
    backbone: Backbone, tmp_path: Path
) -> None:
    expected = losses_by_hand(backbone, at_prompt_end=False)
    assert first_loss(config(), backbone, tmp_path) == pytest.approx(expected, abs=1e-4)


def test_target_new_loss_trains_first_and_last_target_token(
    llama: Backbone, tmp_path: Path
) -> None:
    method = edited(config(edit_lr=0.02, num_steps=60), llama, tmp_path)
    batch = edit_batch(llama.tokenizer, EDITS, end=False)
    with torch.no_grad():
        logits, _ = method.logits(batch.tokens)
    assert torch.equal(logits.argmax(-1), batch.labels)
    assert row_index(batch.tokens).unique().tolist() == [0, 1]
    method.remove()


LATER = (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),)


def in_turn(settings: Config, backbone: Backbone, tmp_path: Path, steps: int) -> FineTuning:
    method = FineTuning(settings, backbone, Artefacts(tmp_path), trial_generators(0))
    method.begin(edit_batch(backbone.tokenizer, EDITS + LATER, end=False))
    for _ in range(steps):
        method.advance(1)
    return method


def test_passes_then_each_edit_once_in_each_and_in_another_order() -> None:
    passes = Passes(num_edits=7, size=3, seed=5)
    drawn = [
        [edit for step in range(3 * n, 3 * n + 3) for edit in passes.edits(step).tolist()]
        for n in range(4)
    ]
    assert [len(passes.edits(step)) for step in range(3)] == [3, 3, 1]
    assert all(sorted(order) == list(range(7)) for order in drawn)
    assert len({tuple(order) for order in drawn}) == 4
    assert Passes(7, 3, 5).edits(11).tolist() == passes.edits(11).tolist()
    assert Passes(7, 7, 6).edits(0).tolist() != Passes(7, 7, 5).edits(0).tolist()


def test_passes_when_a_pass_ends_then_the_mean_of_its_losses_alone() -> None:
    passes = Passes(num_edits=3, size=2, seed=0)
    assert passes.note(0, 1.0) is None
    assert passes.note(1, 3.0) == 2.0
    assert passes.note(2, 0.5) is None
    assert passes.note(3, 0.1) == pytest.approx(0.3)


@pytest.mark.parametrize("stop_loss", [0.0, None])
def test_mini_batches_then_each_step_is_that_of_the_edits_that_are_due(
    llama: Backbone, tmp_path: Path, stop_loss: float | None
) -> None:
    settings = config(mini_batch_size=2, num_steps=2, stop_loss=stop_loss)
    path = f"{llama.down_path(2)}.weight"
    method = in_turn(settings, llama, tmp_path, steps=4)
    assert method.num_steps == 4  # two passes of two and one edit
    assert method.advance(1)
    found = llama.model.get_parameter(path).detach().clone()
    seed = int(method.state().values["seed"])  # type: ignore[arg-type]
    method.remove()
    weight = llama.model.get_parameter(path).requires_grad_(True)
    adam = torch.optim.Adam([weight], lr=0.01)
    for step in range(4):
        due = [(EDITS + LATER)[edit] for edit in Passes(3, 2, seed).edits(step).tolist()]
        losses = []
        for edit in due:
            row = tokenise(llama.tokenizer, edit.prompt, edit.target_new)
            logs = llama.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            each = [-logs[row.prompt_length - 1 + i, t] for i, t in enumerate(row.target)]
            losses.append(sum(each) / len(each))
        adam.zero_grad()
        (sum(losses) / len(losses)).backward()
        adam.step()
    # Adam divides by the gradient's size, which makes rounding of float32 grow where that is small.
    close = (found - weight.detach()).abs() < 1e-4
    assert float(close.float().mean()) > 0.99
    weight.requires_grad_(False)
    weight.grad = None


def test_mini_batches_when_all_edits_fit_into_one_then_as_without(
    llama: Backbone, tmp_path: Path
) -> None:
    losses = []
    for size in (None, 3, 9):
        method = in_turn(config(mini_batch_size=size, num_steps=5), llama, tmp_path, steps=5)
        losses.append(method.finish().final_loss)
        method.remove()
    assert losses[1:] == [pytest.approx(losses[0], rel=1e-4)] * 2


def test_mini_batches_then_the_loop_ends_with_a_pass_whose_mean_is_low(
    llama: Backbone, tmp_path: Path
) -> None:
    slow = config(mini_batch_size=2, num_steps=2, edit_lr=1e-9)  # too slow to learn anything
    method = in_turn(slow, llama, tmp_path, steps=2)
    low, high = sorted(method.state().values["losses"])  # type: ignore[type-var, arg-type]
    method.remove()
    # Below the mean of the first pass its first step is the only one; a mini-batch ends no loop.
    for stop_loss, steps in (((low + high) / 2 + 1e-3, 1), (low + 1e-3, 4)):
        method = in_turn(replace(slow, stop_loss=stop_loss), llama, tmp_path, steps=4)
        assert method.finish().num_steps == steps
        method.remove()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mini_batch_size": 0}, "method.mini_batch_size is 0; it must be at least 1 or null"),
        ({"loss": "last"}, "method.loss is 'last'; allowed: prompt_last, target_new"),
        ({"num_steps": 0}, "method.num_steps is 0"),
        ({"edit_lr": -1.0}, "method.edit_lr is -1"),
        ({"norm_bound": 0.0}, "method.norm_bound is 0"),
    ],
)
def test_config_when_out_of_range_then_names_the_key(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
