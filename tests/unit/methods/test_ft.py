from pathlib import Path

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit
from trainables.methods.ft import Config, FineTuning
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "last"}, "method.loss is 'last'; allowed: prompt_last, target_new"),
        ({"num_steps": 0}, "method.num_steps is 0"),
        ({"edit_lr": -1.0}, "method.edit_lr is -1"),
        ({"norm_bound": 0.0}, "method.norm_bound is 0"),
    ],
)
def test_config_when_out_of_range_then_names_the_key(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
