"""Rows of different lengths laid one behind the other into fewer, fuller ones: sequence packing.

A padded batch computes as much for padding as for tokens. What the layers make of a token depends
on its own row alone, so several rows may share one as long as the mask keeps them apart, and what
stands behind a row's last scored position need not run at all.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.backbones.forward.layer_mask import mask_of_layers
from trainables.interfaces import PromptBatch

_STRETCHES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # widths tried, by the longest row's
_WORTH = 0.95  # a packing that leaves more than this share of the work is not worth its copies


@dataclass(frozen=True)
class Packing:
    """B padded rows of T columns as G rows of W columns.

    Attributes:
        source: Number in the padded rows, row * T + column, of each place, (G, W); 0 on padding.
        positions: Index of each token within its own row, (G, W); 0 on padding.
        mask: True, or 0.0, where a token sees another, (G, 1, W, W).
        scored: Number in the packed rows, row * W + column, of each scored position, (M,), in
            row-major order of the padded rows.
    """

    source: Tensor
    positions: Tensor
    mask: Tensor
    scored: Tensor

    def packed(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, T, D) of the padded rows -> (G, W, D)."""
        flat = hidden.flatten(0, 1).index_select(0, self.source.flatten())
        return flat.view(*self.source.shape, -1)

    def at_scored(self, final: Tensor) -> Tensor:
        """What the layers made of the packed rows, (G, W, D) -> (M, D) at the scored positions."""
        return final.flatten(0, 1).index_select(0, self.scored)


class Packings:
    """Packings for one part of a decoder, of the batch that ran last.

    A training loop comes with the same batch in every step.
    """

    def __init__(self, model: nn.Module, part: nn.Module, hidden_size: int) -> None:
        """Name the model that `part` is of, and D."""
        self._model, self._part, self._hidden_size = model, part, hidden_size
        self._batch: PromptBatch | None = None
        self._found: Packing | None = None

    def of(self, prompts: PromptBatch, dtype: torch.dtype) -> Packing | None:
        """How whole rows with hidden states of `dtype` are laid together.

        None where that saves next to nothing, and where the layers make their own masks.
        """
        if self._batch is not prompts:
            host = prompts.on_host
            real, positions = host.attention_mask, host.position_ids
            mask = mask_of_layers(self._model, self._part, real, positions, dtype)
            self._batch = prompts
            self._found = None if mask is None else packing_of(prompts, mask, self._hidden_size)
        return self._found


def packing_of(prompts: PromptBatch, mask: Tensor, hidden_size: int) -> Packing | None:
    """How rows are laid together; None where that saves next to nothing.

    Args:
        prompts: Whole rows.
        mask: What the layers take for them, (B, 1, T, T), bool or additive, on the host.
        hidden_size: D.
    """
    host = prompts.on_host
    if not bool(host.scored.any()):
        return None
    num_rows, width = host.input_ids.shape
    columns = torch.arange(width)
    ends = torch.where(host.scored, columns, -1).amax(1, keepdim=True)
    runs = host.attention_mask.bool() & (columns <= ends)
    layout = _cheapest([int(length) for length in runs.sum(1)], hidden_size)
    num_packed, packed_width = layout.shape
    if _cost(layout.shape, hidden_size) > _WORTH * _cost((num_rows, width), hidden_size):
        return None
    rows, columns = runs.nonzero(as_tuple=True)
    place = torch.tensor(layout.starts)[rows] + (runs.cumsum(1) - 1)[rows, columns]
    packed_of = torch.zeros(num_rows * width, dtype=torch.int64)
    packed_of[rows * width + columns] = place

    def spread(values: Tensor, padding: int) -> Tensor:
        made = torch.full((num_packed * packed_width,), padding)
        made[place] = values
        return made.view(num_packed, packed_width)

    owner, column = spread(rows, -1), spread(columns, 0)
    scored_rows, scored_columns = host.scored.nonzero(as_tuple=True)
    device = prompts.input_ids.device
    return Packing(
        *(
            tensor.to(device, non_blocking=True)
            for tensor in (
                spread(rows * width + columns, 0),
                spread(host.position_ids[rows, columns], 0),
                _apart(mask, owner, column),
                packed_of[scored_rows * width + scored_columns],
            )
        )
    )


@dataclass(frozen=True)
class _Layout:
    """Where rows begin in the packed rows, laid one behind the other, and how these are shaped."""

    starts: list[int]
    shape: tuple[int, int]


def _cheapest(lengths: Sequence[int], hidden_size: int) -> _Layout:
    widths = {math.ceil(max(lengths) * stretch) for stretch in _STRETCHES}
    layouts = [_best_fit(lengths, width) for width in sorted(widths)]
    return min(layouts, key=lambda layout: _cost(layout.shape, hidden_size))


def _best_fit(lengths: Sequence[int], width: int) -> _Layout:
    """Longest first, each row where the least room stays: best-fit decreasing."""
    free: list[tuple[int, int]] = []  # room left and number of each packed row, in order
    places = [(0, 0)] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        found = bisect_left(free, (lengths[row], 0))
        room, number = free.pop(found) if found < len(free) else (width, len(free))
        places[row] = number, width - room
        insort(free, (room - lengths[row], number))
    used = max(first + length for (_, first), length in zip(places, lengths, strict=True))
    return _Layout([number * used + first for number, first in places], (len(free), used))


def _cost(shape: tuple[int, int], hidden_size: int) -> float:
    """Work of a layer, in tokens: attention to W others costs a token about W / D of the rest."""
    num_rows, width = shape
    return num_rows * width * (1.0 + width / hidden_size)


def _apart(mask: Tensor, owner: Tensor, column: Tensor) -> Tensor:
    """The mask (G, 1, W, W) of packed rows; padding sees itself alone, and nobody sees it.

    Args:
        mask: Of the padded rows, (B, 1, T, T).
        owner: The padded row of each place, (G, W); -1 on padding.
        column: Its column there.
    """
    of_row = owner.clamp_min(0)[:, :, None], 0, column[:, :, None], column[:, None, :]
    is_own = (owner[:, :, None] == owner[:, None, :]) & (owner >= 0)[:, :, None]
    seen, unseen = (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
    made = torch.where(is_own, mask[of_row], torch.tensor(unseen, dtype=mask.dtype))
    itself = torch.eye(owner.shape[1], dtype=torch.bool)
    return torch.where(itself, torch.tensor(seen, dtype=mask.dtype), made)[:, None]
