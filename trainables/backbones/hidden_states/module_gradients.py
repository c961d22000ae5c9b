"""Gradients of edits at several linear modules, as their factors, in one backward pass.

The gradient of a loss by a linear module's weight is the sum over tokens of delta k^T, with k what
enters the module and delta the gradient at what leaves it. Editors that work on factors need no
gradient matrix. `unedited.gradient_factors` does it at one FFN output projection without running
its layer again; here modules may stand anywhere from the split's first layer up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainables.backbones.forward.split import Split
from trainables.backbones.surgery import get_module
from trainables.interfaces import PromptBatch
from trainables.optimise import token_losses
from trainables.prompts import row_index

ROWS_PER_PASS = 64


class ModuleFactors(NamedTuple):
    """Of S tokens at one module, float32 or wider.

    Attributes:
        deltas: Gradient of the loss at the module's output, (S, out).
        keys: What enters the module, (S, in).
        owner: Row of each token, (S,) int64.
    """

    deltas: Tensor
    keys: Tensor
    owner: Tensor


def module_factors(
    split: Split,
    paths: Sequence[str],
    tokens: PromptBatch,
    labels: Tensor,
    *,
    at_scored: bool = False,
    loss_of: Literal["row", "token"] = "row",
    rows_at_a_time: int = ROWS_PER_PASS,
) -> Iterator[dict[str, ModuleFactors]]:
    """Factors of the gradient of each row's loss, whatever runs beside it.

    They come in parts of some rows, in order; where a trial is shared among processes each runs all
    of them. The backbone is taken with the weights and modules that now stand in it; none of its
    parameters gets a gradient.

    Args:
        split: Its first layer lies at or below that of every module.
        paths: Dotted paths of linear modules.
        tokens: Token rows, scored where a label is predicted.
        labels: (M,), in row-major order of the scored positions.
        at_scored: Give the tokens alone that predict a label, in row-major order, instead of all
            real ones.
        loss_of: A row's loss is the mean of its labels' negative log-likelihoods; with `token`
            their sum, so that each counts as if it were alone.
        rows_at_a_time: Most rows of one part; a smaller micro-batch makes smaller parts.
    """
    ends = [0, *accumulate(tokens.scored_counts)]
    micro_batch, device = split.backbone.micro_batch, split.backbone.device
    size = micro_batch.at_most(rows_at_a_time)
    for part in torch.arange(len(tokens.input_ids)).split(size):
        batch, first = tokens.rows(part), int(part[0])
        wanted = labels[ends[first] : ends[first + len(part)]]
        modules = {path: get_module(split.backbone.model, path) for path in paths}
        # Rows of a part run at once and here: what a hook sees is then of all of them, and once.
        with _watched(modules) as seen, torch.enable_grad(), micro_batch.undivided():
            own = split.per_token(token_losses, batch, wanted)
            if loss_of == "row":
                own = own / batch.scored.sum(1)[row_index(batch)]
            loss = own.sum()
            gradients = torch.autograd.grad(loss, [seen[path][1] for path in paths])
        places = batch.scored_at if at_scored else batch.real_at
        owner = places[0] + first
        yield {
            path: ModuleFactors(
                _at(gradient, places, device), _at(seen[path][0], places, device), owner
            )
            for path, gradient in zip(paths, gradients, strict=True)
        }


def _at(tensor: Tensor, places: tuple[Tensor, Tensor], device: torch.device) -> Tensor:
    chosen = tensor.detach().to(device)[places]
    return chosen.to(torch.promote_types(chosen.dtype, torch.float32))


@contextmanager
def _watched(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What enters and leaves each module within the block, (B, T, ...) each, by its path.

    What leaves is part of the graph that leads to the loss, though no parameter is: the outputs
    that depend on no other module's become its leaves.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            kept = output if output.requires_grad else output.detach().requires_grad_(True)
            seen[path] = inputs[0], kept
            return kept.clone()  # Falcon adds to it in place, which no leaf allows

        return module.register_forward_hook(keep)

    handles = [watch(path, module) for path, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
