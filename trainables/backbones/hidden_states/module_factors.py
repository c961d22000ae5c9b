"""Factors of the gradients of several linear modules at once: one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

from trainables.backbones.hidden_states.unedited import ROWS_PER_FORWARD
from trainables.backbones.split import Split
from trainables.interfaces import PromptBatch
from trainables.optimise import token_losses


def module_factors(
    split: Split,
    paths: Sequence[str],
    tokens: PromptBatch,
    labels: Tensor,
    rows_at_a_time: int = ROWS_PER_FORWARD,
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What enters each module at the scored positions, and the gradient at its output there.

    The loss is the sum of the labels' negative log-likelihoods: each token has the gradient that it
    would have alone, whatever runs beside it. The rows come in parts, in order; where a trial is
    shared among processes each runs all of them.

    Args:
        split: The backbone, from a layer at or below all modules.
        paths: Of linear modules, each of which runs once in a forward pass.
        tokens: Token rows, scored where a label is predicted.
        labels: (M,), in row-major order of the scored positions.
        rows_at_a_time: Most rows of one part.

    Yields:
        For a part with S scored positions, and for each path: the inputs (S, in) and the gradients
        (S, out), both float32 or wider and on the module's device.
    """
    micro_batch = split.backbone.micro_batch
    ends = [0, *accumulate(tokens.scored_counts)]
    size = micro_batch.at_most(rows_at_a_time)
    for part in torch.arange(len(tokens.input_ids)).split(size):
        batch, first = tokens.rows(part), int(part[0])
        wanted = labels[ends[first] : ends[first + len(part)]]
        # The graph begins here, since no weight asks for a gradient; no gradient comes so far down.
        hidden = split.hidden(batch).requires_grad_(True)
        with torch.enable_grad(), micro_batch.undivided(), _watched(split, paths) as seen:
            loss = split.per_token(token_losses, batch, wanted, hidden=hidden).sum()
            inputs, outputs = zip(*(seen[path] for path in paths), strict=True)
            gradients = torch.autograd.grad(loss, outputs)
        yield [
            (_scored(keys.detach(), batch), _scored(gradient, batch))
            for keys, gradient in zip(inputs, gradients, strict=True)
        ]


@contextmanager
def _watched(split: Split, paths: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Within the block: what enters and what leaves each module, (B, T, ...), by its path."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(path: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[path] = inputs[0], output

    model = split.backbone.model
    handles = [
        model.get_submodule(path).register_forward_hook(partial(note, path)) for path in paths
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _scored(states: Tensor, batch: PromptBatch) -> Tensor:
    """Of states (B, T, ...) those at the scored positions, float32 or wider."""
    rows, columns = batch.scored_at
    found = states[rows.to(states.device), columns.to(states.device)]
    return found.to(torch.promote_types(found.dtype, torch.float32))
