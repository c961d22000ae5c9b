"""DEFER: its gate by hand, and what the method promises beyond the contract."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, DecodeState, Edit, EditReport, PromptBatch
from trainables.methods.defer import Choice, Config, Defer, Deferral
from trainables.prompts import Row, collate, edit_batch, tokenise
from trainables.seeding import trial_generators

LAYER = 2
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
    Edit("Ada Quell works for", "Lumen Works", "Ada Quell"),
)
PROMPTS = ("The capital of Fooland is", "Who wrote The Long Tide?", "Ada Quell works for")


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def method_of(backbone: Backbone, artefacts: Artefacts, **changes: Any) -> Defer:
    values = {"edit_layer": LAYER, "edit_lr": 0.01, "num_steps": 20, **changes}
    return Defer(Config(**values), backbone, artefacts, trial_generators(0))


def edit(method: Defer, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(7):
        pass
    return method.finish()


def set_gate(method: Defer, bias: float) -> None:
    """A gate that asks for nothing."""
    state = method.state()
    state.tensors["deferral/gate"] = torch.zeros_like(state.tensors["deferral/gate"])
    state.tensors["deferral/gate_bias"] = torch.tensor([bias])
    method.load(state)


def prompts_of(backbone: Backbone, **more: Any) -> PromptBatch:
    rows = [tokenise(backbone.tokenizer, prompt) for prompt in PROMPTS]
    return collate(rows, pad_id=0, scores_last=True, **more)


def test_added_and_choice_by_hand() -> None:
    deferral = Deferral(2, 1, torch.Generator(), torch.float64)
    with torch.no_grad():
        deferral.gate.copy_(torch.tensor([math.log(3), 0.0]))
        deferral.gate_bias.zero_()
        deferral.map.copy_(torch.tensor([[2.0, 1.0]]))
        deferral.map_bias.fill_(1.0)
    queries = torch.tensor([[1.0, 5.0], [-1.0, 5.0]]).double()
    output = torch.tensor([[[4.0], [0.0]], [[4.0], [0.0]]]).double()
    # g = sigmoid(+-ln 3) = 3/4 and 1/4; o = 2 + 5 + 1 = 8 and -2 + 5 + 1 = 4
    # g (o - y): 3/4 (8 - 4) = 3, 3/4 (8 - 0) = 6; 1/4 (4 - 4) = 0, 1/4 (4 - 0) = 1
    expected = torch.tensor([[[3.0], [6.0]], [[0.0], [1.0]]]).double()
    torch.testing.assert_close(deferral.added(queries, output).detach(), expected)
    answered = deferral.choice(queries).replaced(output)
    assert answered.tolist() == [[[8.0], [8.0]], [[4.0], [0.0]]]


def test_choice_when_the_gate_is_at_one_half_then_open() -> None:
    deferral = Deferral(1, 1, torch.Generator(), torch.float32)
    with torch.no_grad():
        deferral.gate_bias.zero_()
    assert deferral.choice(torch.zeros(1, 1)).is_open.tolist() == [True]


def test_replaced_when_closed_then_the_very_numbers() -> None:
    output = torch.tensor([[[0.1, -0.0]]])
    choice = Choice(torch.tensor([False]), torch.tensor([[math.nan, 1.0]]))
    assert torch.equal(choice.replaced(output), output)


def test_draw_is_uniform_within_the_root_of_the_number_of_inputs() -> None:
    deferral = Deferral(100, 50, torch.Generator().manual_seed(0), torch.float32)
    numbers = deferral.map.detach()
    assert 0.0999 < float(numbers.abs().max()) <= 0.1  # of 5,000 within 1 / sqrt(100)
    assert abs(float(numbers.mean())) < 0.005
    assert float(deferral.gate.detach().abs().max()) <= 0.1


def test_logits_when_the_gate_is_closed_then_the_backbones_bit_for_bit(
    backbone: Backbone, artefacts: Artefacts
) -> None:
    method = method_of(backbone, artefacts)
    edit(method, backbone, *EDITS)
    prompts = prompts_of(backbone)
    with torch.no_grad():
        plain, _ = Split(backbone, LAYER, PrefixCache()).logits(prompts)
        set_gate(method, -1e-3)
        closed, _ = method.logits(prompts)
        assert method.routes(prompts).tolist() == [-1, -1, -1]
        set_gate(method, 0.0)
        opened, _ = method.logits(prompts)
        assert method.routes(prompts).tolist() == [0, 0, 0]
    assert torch.equal(closed, plain)
    assert not torch.allclose(opened, plain, atol=1e-3)


def test_first_step_reaches_the_gate_and_the_map(llama: Backbone, artefacts: Artefacts) -> None:
    method = method_of(llama, artefacts)
    method.begin(edit_batch(llama.tokenizer, EDITS, end=True))
    before = {name: value.clone() for name, value in method.state().tensors.items()}
    method.advance(1)
    after = method.state().tensors
    for name in ("gate", "gate_bias", "map", "map_bias"):
        moved = (after[f"deferral/{name}"] - before[f"deferral/{name}"]).abs()
        # Adam's first step is the rate wherever there is a gradient.
        assert float(moved.median()) == pytest.approx(0.01, rel=1e-3)
    method.remove()


def test_route_is_of_the_prompt_and_stays_while_an_answer_is_generated(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = method_of(llama, artefacts)
    edit(method, llama, *EDITS)
    bias = openings(method, prompts_of(llama)).sort().values[1:].mean()
    state = method.state()  # between the two largest: one prompt opens it
    state.tensors["deferral/gate_bias"] = state.tensors["deferral/gate_bias"] - bias
    method.load(state)
    prompts = prompts_of(llama)
    is_open = [route == 0 for route in method.routes(prompts).tolist()]
    assert sorted(is_open) == [False, False, True]
    with torch.no_grad():
        scores, after = method.logits(prompts, DecodeState())
        assert isinstance(after.route, Choice)
        assert after.route.is_open.tolist() == is_open
        rows = [tokenise(llama.tokenizer, prompt) for prompt in PROMPTS]
        for _ in range(3):
            tokens = scores.argmax(-1)
            step = collate([Row((token,), 1) for token in tokens.tolist()], pad_id=0)
            step.scored[:] = True
            scores, after = method.logits(step, after)
            rows = [
                Row((*row.ids, token), row.prompt_length)
                for row, token in zip(rows, tokens.tolist(), strict=True)
            ]
            whole, _ = method.logits(collate(rows, pad_id=0, scores_last=True))
            torch.testing.assert_close(scores, whole, atol=1e-4, rtol=0)


def openings(method: Defer, prompts: PromptBatch) -> Tensor:
    """What the gate is the sigmoid of, w . q + b of each prompt."""
    inputs, _ = method._site.frozen(prompts)
    queries = inputs[torch.arange(len(inputs)), prompts.prompt_ends]
    tensors = method.state().tensors
    return queries @ tensors["deferral/gate"] + tensors["deferral/gate_bias"]


def test_stream_goes_on_with_the_same_maps_and_counts_its_edits(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = method_of(llama, artefacts, num_steps=1)
    assert method.routes(prompts_of(llama)).tolist() == [-1, -1, -1]
    assert method.inference_bytes() == 0
    assert edit(method, llama, *EDITS[:2]).num_steps == 1
    before = method.state().tensors["deferral/map"].clone()
    edit(method, llama, EDITS[2])
    moved = (method.state().tensors["deferral/map"] - before).abs()
    assert 0 < float(moved.max()) <= 0.0101  # one step from where it was, not a new draw
    assert method.trained_routes() == [0, 0, 0]
    size = llama.ffn_size * llama.hidden_size
    assert method.inference_bytes() == 4 * (size + llama.ffn_size + llama.hidden_size + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edit_layer": -1}, "method.edit_layer is -1; it must be at least 0"),
        ({"edit_layer": 4}, "method.edit_layer is 4; allowed: 0 to 3"),
        ({"edit_lr": 0.0}, "method.edit_lr is 0.0; it must be above 0"),
        ({"num_steps": 0}, "method.num_steps is 0; it must be at least 1"),
    ],
)
def test_settings_when_out_of_range_then_names_the_key(
    changes: dict[str, Any], message: str, llama: Backbone, artefacts: Artefacts
) -> None:
    with pytest.raises(ConfigError, match=message):
        method_of(llama, artefacts, **changes)
