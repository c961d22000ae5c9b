"""Gives each row of a batch a weight of its own in one projection, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
