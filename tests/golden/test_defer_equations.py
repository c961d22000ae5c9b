"""DEFER against a slow float64 reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.interfaces import Backbone, Edit
from trainables.methods.defer import Config, Defer, Deferral
from trainables.optimise import TargetRows, target_loss
from trainables.prompts import edit_batch, row_index
from trainables.seeding import trial_generators

from . import reference_defer as reference
from .reference_fine_tuning import Adam

LAYER, RATE, STEPS = 2, 1e-2, 3
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)


def maps_of(deferral: Deferral) -> reference.Maps:
    values = {name: p.detach().double().numpy() for name, p in deferral.named_parameters()}
    return reference.Maps(
        values["gate"], float(values["gate_bias"][0]), values["map"], values["map_bias"]
    )


@pytest.mark.parametrize(("key_size", "width", "length"), [(2, 3, 1), (5, 2, 4), (3, 3, 2)])
def test_both_outputs_and_all_gradients_as_the_reference(
    key_size: int, width: int, length: int
) -> None:
    generator = torch.Generator().manual_seed(key_size)
    deferral = Deferral(key_size, width, generator, torch.float64)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    queries, output, slopes = numbers(4, key_size), numbers(4, length, width), numbers(4, length, 1)
    slopes = slopes * numbers(width)
    queries[1], queries[3] = -queries[0], -queries[2]  # without a bias one of a pair is open
    with torch.no_grad():
        deferral.gate.mul_(3)
        deferral.gate_bias.zero_()
    changed = output + deferral.added(queries, output)
    (changed * slopes).sum().backward()
    answered = deferral.choice(queries).replaced(output)
    maps = maps_of(deferral)
    totals = {name: np.zeros(tuple(p.shape)) for name, p in deferral.named_parameters()}
    opened = set()
    for row in range(4):
        q, ys = queries[row].numpy(), list(output[row].numpy())
        np.testing.assert_allclose(
            changed[row].detach().numpy(), reference.learning(maps, q, ys), rtol=1e-12
        )
        np.testing.assert_allclose(
            answered[row].numpy(), reference.answering(maps, q, ys), rtol=1e-12
        )
        opened.add(reference.gate(maps, q) >= 0.5)
        found = reference.gradients(maps, q, ys, list(slopes[row].numpy()))
        for name, gradient in found.items():
            totals[name] += gradient
    assert opened == {False, True}
    for name, parameter in deferral.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), totals[name], rtol=1e-10, atol=1e-12)


def test_steps_are_those_of_a_whole_forward_pass_with_the_reference_in_its_layer(
    backbone: Backbone, tmp_path: Path
) -> None:
    backbone.model.double()  # Adam divides by the gradient's size: in float32 rounding would grow
    method = Defer(
        Config(edit_layer=LAYER, edit_lr=RATE, num_steps=STEPS),
        backbone,
        Artefacts(tmp_path),
        trial_generators(0),
    )
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    rows, ends = TargetRows.of(row_index(batch.tokens)), batch.tokens.prompt_ends
    method.begin(batch)
    weights = {
        name.removeprefix("deferral/"): value.detach().clone().numpy()
        for name, value in method.state().tensors.items()
        if name.startswith("deferral/")
    }
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def learning(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        queries = inputs[0].detach()[torch.arange(len(ends)), ends]
        maps = reference.Maps(
            weights["gate"], float(weights["gate_bias"][0]), weights["map"], weights["map_bias"]
        )
        made = [
            reference.learning(maps, q.numpy(), list(own.numpy()))
            for q, own in zip(queries, output.detach(), strict=True)
        ]
        changed = torch.tensor(np.array(made), requires_grad=True)
        seen.append((queries, output.detach(), changed))
        return changed * 1.0  # some families add to it in place

    optimisers = {name: Adam(RATE) for name in weights}
    down = backbone.model.get_submodule(backbone.down_path(LAYER))
    for _ in range(STEPS):
        handle = down.register_forward_hook(learning)
        out = backbone.model(batch.tokens.input_ids, attention_mask=batch.tokens.attention_mask)
        handle.remove()
        loss = target_loss(out.logits[batch.tokens.scored_at], batch.labels, rows)
        queries, output, changed = seen[-1]
        (slopes,) = torch.autograd.grad(loss, changed)
        maps = reference.Maps(
            weights["gate"], float(weights["gate_bias"][0]), weights["map"], weights["map_bias"]
        )
        total = {name: np.zeros_like(value) for name, value in weights.items()}
        for q, own, slope in zip(queries, output, slopes, strict=True):
            found = reference.gradients(maps, q.numpy(), list(own.numpy()), list(slope.numpy()))
            for name, gradient in found.items():
                total[name] += gradient
        weights = {n: w + optimisers[n].change(total[n]) for n, w in weights.items()}
    assert method.advance(STEPS)
    for name, value in method.state().tensors.items():
        if name.startswith("deferral/"):
            expected = weights[name.removeprefix("deferral/")]
            np.testing.assert_allclose(value.detach().numpy(), expected, rtol=0, atol=1e-6)
    method.finish()
    method.remove()
