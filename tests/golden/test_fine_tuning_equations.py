"""LoRA and FT-EWC against slow float64 references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainables.artefacts import Artefacts
from trainables.interfaces import Backbone, Edit
from trainables.methods.ft_ewc import Config, ElasticFineTuning
from trainables.methods.lora.low_rank import LowRank
from trainables.prompts import edit_batch, tokenise
from trainables.seeding import trial_generators

from . import reference_fine_tuning as reference
from .reference_fine_tuning import Floats

LAYER, RATE, PENALTY_WEIGHT, STEPS = 2, 1e-3, 1e4, 4
EARLIER = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)
LATER = (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),)


@pytest.mark.parametrize(("size_in", "size_out", "rank"), [(3, 2, 1), (4, 4, 3), (2, 6, 2)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_low_rank_map_as_printed(
    size_in: int, size_out: int, rank: int, is_transposed: bool
) -> None:
    generator = torch.Generator().manual_seed(size_in)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W, A, B, x = (
        numbers(size_out, size_in),
        numbers(rank, size_in),
        numbers(size_out, rank),
        numbers(2, 3, size_in),
    )
    frozen = Conv1D(size_out, size_in) if is_transposed else nn.Linear(size_in, size_out)
    frozen = frozen.double()
    with torch.no_grad():
        frozen.weight.copy_(W.T if is_transposed else W)
        frozen.bias.zero_()
    made = LowRank(
        frozen,
        rank,
        5.0 / rank,
        is_transposed=is_transposed,
        home=torch.device("cpu"),
        generator=generator,
        drop=lambda x: x,
    )
    with torch.no_grad():
        made.inner.copy_(A)
        made.outer.copy_(B)
    actual = made(x).detach().numpy()
    for row, token in np.ndindex(2, 3):
        expected = reference.low_rank(W.numpy(), A.numpy(), B.numpy(), x[row, token].numpy(), 5.0)
        np.testing.assert_allclose(actual[row, token], expected, rtol=1e-12, atol=1e-12)


def weight_of(backbone: Backbone) -> nn.Parameter:
    return backbone.model.get_parameter(f"{backbone.down_path(LAYER)}.weight")


def gradient_of(backbone: Backbone, W: Floats, edit: Edit) -> tuple[float, Floats]:
    """NLL of one edit, mean over its target's tokens, and its gradient by the weight, at W."""
    weight = weight_of(backbone)
    with torch.no_grad():
        weight.copy_(torch.from_numpy(W))
    weight.requires_grad_(True)
    row = tokenise(backbone.tokenizer, edit.prompt, edit.target_new)
    logs = backbone.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    first = row.prompt_length - 1
    each = [-logs[first + index, token] for index, token in enumerate(row.target)]
    loss = sum(each) / len(each)
    assert isinstance(loss, Tensor)
    (gradient,) = torch.autograd.grad(loss, weight)
    return float(loss.detach()), gradient.numpy()


def batch_gradient(backbone: Backbone, W: Floats, edits: Sequence[Edit]) -> tuple[float, Floats]:
    found = [gradient_of(backbone, W, edit) for edit in edits]
    return (
        sum(loss for loss, _ in found) / len(edits),
        sum((gradient for _, gradient in found), np.zeros_like(W)) / len(edits),
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_batches_then_each_step_as_the_reference_takes_it(
    family: str, fresh: Callable[[str], Backbone], tmp_path: Path
) -> None:
    backbone, mirror = fresh(family), fresh(family)
    for each in (backbone, mirror):
        each.model.double()
    config = Config(
        edit_layer=LAYER,
        edit_lr=RATE,
        num_steps=STEPS,
        penalty_weight=PENALTY_WEIGHT,
        num_replayed=2,
    )
    method = ElasticFineTuning(config, backbone, Artefacts(tmp_path), trial_generators(0))
    losses = []
    for edits in (EARLIER, LATER):
        method.begin(edit_batch(backbone.tokenizer, edits, end=False))
        assert method.advance(STEPS)
        losses.append(method.finish().final_loss)

    W = weight_of(mirror).detach().numpy().copy()
    W, _ = trained(mirror, W, EARLIER, None)
    F = reference.importance([gradient_of(mirror, W, edit)[1] for edit in EARLIER])
    free, _ = trained(mirror, W, LATER, None)
    held, loss = trained(mirror, W, LATER, F)
    assert np.abs(held - free).max() > 3e-4  # else the penalty would not be seen
    assert losses[1] == pytest.approx(loss, rel=1e-5)
    # Losses are float32, which Adam's division by small gradients enlarges: a step is .001.
    np.testing.assert_allclose(weight_of(backbone).detach().numpy(), held, rtol=0, atol=1e-5)


def trained(
    backbone: Backbone, anchor: Floats, edits: Sequence[Edit], F: Floats | None
) -> tuple[Floats, float]:
    """The weight after all steps from `anchor`, and the last step's loss; F: of the penalty."""
    W, adam, loss = anchor.copy(), reference.Adam(RATE), 0.0
    for _ in range(STEPS):
        loss, gradient = batch_gradient(backbone, W, edits)
        if F is not None:
            loss += PENALTY_WEIGHT * reference.penalty(W, anchor, F)
            gradient = gradient + PENALTY_WEIGHT * reference.penalty_gradient(W, anchor, F)
        W = W + adam.change(gradient)
    return W, loss
