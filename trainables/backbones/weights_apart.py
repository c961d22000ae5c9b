"""Gives rows of a batch weights of their own in some projections, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.interfaces import Backbone


@contextmanager
def weights_apart(backbone: Backbone, path: str, weights: Sequence[Tensor]) -> Iterator[None]:
    """Within the block row n of what enters the projection at `path` meets `weights[n]` alone.

    Args:
        backbone: Its batch must run there whole and unpacked: as many rows as weights.
        path: Of a module with a matrix `weight` and, perhaps, a `bias`, which all rows share.
        weights: Of the shape of the module's own, in any dtype; gradients flow to them.
    """
    module = backbone.model.get_submodule(path)

    def apart(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        (entering,) = inputs
        each = [weight.to(entering.dtype) for weight in weights]
        # GPT-2 stores (in, out), Llama (out, in); the family says which.
        turned = each if backbone.family.is_transposed else [weight.mT for weight in each]
        left = torch.stack([row @ own for row, own in zip(entering, turned, strict=True)])
        bias: Tensor | None = getattr(module, "bias", None)
        return left if bias is None else left + bias

    handle = module.register_forward_hook(apart)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class RankOnes:
    """A change of rank 1 of one weight for each of N edits: outputs (N, D) times inputs (N, F)."""

    outputs: Tensor
    inputs: Tensor

    def of(self, number: int) -> Tensor:
        """The change of one edit, (D, F)."""
        return torch.outer(self.outputs[number], self.inputs[number])


@contextmanager
def changes_apart(
    backbone: Backbone, changes: Mapping[str, RankOnes], owners: Tensor
) -> Iterator[None]:
    """Within the block row n meets weights that are further by the changes of edit `owners[n]`.

    Args:
        backbone: Rows may run some at a time.
        changes: By the path of a projection.
        owners: The edit of each row of the batch, (B,).
    """

    def apart(change: RankOnes, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        running = backbone.micro_batch.running
        edits = owners if running is None else owners[running]
        (entering,) = inputs
        wide = torch.promote_types(entering.dtype, torch.float32)
        left, right = change.outputs[edits].to(wide), change.inputs[edits].to(wide)
        sizes = entering.to(wide) @ right[..., None]  # (B, T, 1)
        return output + (sizes * left[:, None]).to(output)

    with ExitStack() as stack:
        for path, change in changes.items():
            module = backbone.model.get_submodule(path)
            stack.callback(module.register_forward_hook(partial(apart, change)).remove)
        yield
