"""Reads one tensor of a GGUF file, dequantised, in the order that transformers has its rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.backbones.conversion.header import StoredTensor
from trainables.errors import BackboneError

_MOST_NUMBERS = 1 << 22  # dequantised at a time: 16 MiB of float32, and as much again in between
Reorder = Callable[[Tensor], Tensor]


def dequantised(
    data: Any, stored: StoredTensor, dtype: torch.dtype, label: str, told: Callable[[int], None]
) -> Tensor:
    """The tensor as it stands in the file, rounded to `dtype`.

    Args:
        data: The bytes of the whole file, as an array.
        stored: The tensor.
        dtype: Of the result.
        label: File and tensor, for errors.
        told: Of the numbers done, now and then.

    Raises:
        BackboneError: If its type cannot be dequantised, or a number is not finite or becomes
            infinite in `dtype`.
    """
    import gguf

    kind = gguf.GGMLQuantizationType[stored.kind]
    num_rows = math.prod(stored.shape[:-1])
    raw = data[stored.begin : stored.begin + stored.num_bytes].reshape(num_rows, -1)
    made = torch.empty((num_rows, stored.shape[-1]), dtype=dtype)
    step = max(1, _MOST_NUMBERS // stored.shape[-1])
    for start in range(0, num_rows, step):
        rows = raw[start : start + step]
        try:
            values = gguf.dequantize(rows, kind)
        except NotImplementedError as error:
            raise BackboneError(
                f"{label} is stored as {stored.kind}, which cannot be dequantised"
            ) from error
        exact = torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
        rounded = made[start : start + step].copy_(exact)
        if not torch.isfinite(rounded).all():
            reason = "a value that is not finite"
            if torch.isfinite(exact).all():
                reason = f"{float(exact.abs().max()):g}, beyond the range of {dtype}"
            raise BackboneError(f"{label} holds {reason.replace('torch.', '')}")
        told(rows.shape[0] * stored.shape[-1])
    return made.reshape(stored.shape)


def unpaired(num_heads: int) -> Reorder:
    """Rows of a rotary projection as transformers has them.

    llama.cpp turns neighbours, transformers halves: of each head the even rows go first.
    """

    def reorder(weight: Tensor) -> Tensor:
        by_pairs = weight.reshape(num_heads, -1, 2, *weight.shape[1:])
        return by_pairs.transpose(1, 2).reshape(weight.shape)

    return reorder


def by_head(num_heads: int) -> Reorder:
    """Rows of queries, keys and values, which lie one behind the other, head by head."""

    def reorder(weight: Tensor) -> Tensor:
        apart = weight.reshape(3, num_heads, -1, *weight.shape[1:])
        return apart.transpose(0, 1).reshape(weight.shape)

    return reorder
