"""Dropout whose zeros follow from a seed and the place of a number, not from the order of drawing.

A step may run its rows in pieces, and each piece again on the way back; on every device the same
numbers must then be left out. So each number's own index is hashed, by a mixer of 32 bits
(https://nullprogram.com/blog/2018/07/31/) in int64, which every device has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.parallel.micro_batch import MicroBatch
from trainables.seeding import derived_seed

_MASK = 2**32 - 1
_FACTORS = (0x7FEB352D, 0x846CA68B)


class Dropout:
    """Dropout of the maps of one adapter; off until `seed` is set.

    Attributes:
        seed: Of one step; None: nothing is left out.
        is_apart: Whether rows count as if each ran alone, so that their place in the batch decides
            nothing.
    """

    def __init__(self, share: float, micro_batch: MicroBatch) -> None:
        """Leave out `share` of the numbers, in [0, 1); `micro_batch` says which rows run."""
        self.seed: int | None = None
        self.is_apart = False
        self._share = share
        self._micro_batch = micro_batch

    def __call__(self, x: Tensor, place: str) -> Tensor:
        """`x` (b, T, D) with a share of its numbers at 0 and the others divided by what is left.

        Args:
            x: The rows that run, of all of the batch, (b, T, D), or all of them packed, (G, W, D).
            place: What tells the maps of the adapter apart.
        """
        if self.seed is None or self._share == 0:
            return x
        width, size = x.shape[1:]
        running, tokens = self._micro_batch.running, self._micro_batch.places
        if self.is_apart:
            tokens = torch.arange(width, device=x.device).repeat(len(x))
        elif tokens is None:
            first = 0 if running is None else int(running.start)
            tokens = torch.arange(first * width, (first + len(x)) * width, device=x.device)
        within = torch.arange(size, device=x.device)
        tokens = tokens.flatten().to(x.device, non_blocking=True)  # of a sharded model's first one
        index = (tokens[:, None] * size + within).flatten()
        keeps = hashed(index, derived_seed(self.seed, place)) >= int(self._share * 2**32)
        return x * keeps.view(x.shape).to(x.dtype) / (1 - self._share)


def hashed(index: Tensor, seed: int) -> Tensor:
    """A number in [0, 2**32) for each of `index` (N,) int64, as if drawn evenly; `seed` of 64 bits.

    Each half of the seed goes into a round of its own: two seeds do not give one sequence shifted.
    """
    low = _mixed((index ^ (seed & _MASK)) & _MASK)
    return _mixed((low + (seed >> 32)) & _MASK)


def _mixed(value: Tensor) -> Tensor:
    value = ((value ^ (value >> 16)) * _FACTORS[0]) & _MASK
    value = ((value ^ (value >> 15)) * _FACTORS[1]) & _MASK
    return value ^ (value >> 16)
