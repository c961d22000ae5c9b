"""The part of each row that a change at one of its tokens can reach: that token and what follows.

Attention looks back only. What the layers above make of the tokens before stays as it is, so their
keys and values are kept, and a training loop runs the rest of each row alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from trainables.backbones.forward.layer_mask import mask_of_layers
from trainables.backbones.forward.parts import run_part
from trainables.interfaces import PromptBatch

# Of one layer, (B, heads, P, size of a head) each.
KeysAndValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Tail:
    """B rows from a column of their own on, at most S tokens, behind at most P that are kept.

    A row's kept tokens are padded in front and the others behind, so that the two meet: a window
    counts columns.

    Attributes:
        part: The layers that a change reaches, with the final norm.
        first_layer: The number of the first of them.
        columns: Column of the whole row for each column of the tail, (B, S).
        positions: Index of each token of the tail within its row, (B, S).
        mask: What the layers take for P + S columns, (B, 1, S, P + S) or (B, P + S).
        scored: Which columns of the tail are scored, (B, S) bool, on the host.
        past: What is kept, by layer; empty where all rows run from their first token on.
    """

    part: nn.Module
    first_layer: int
    columns: Tensor
    positions: Tensor
    mask: Tensor
    scored: Tensor
    past: tuple[KeysAndValues, ...]

    def rows(self, index: Tensor) -> Tail:
        """The rows named by `index`, (R,) int64 on the host."""

        def of(tensor: Tensor) -> Tensor:
            return tensor[index.to(tensor.device, non_blocking=True)]

        return replace(
            self,
            columns=of(self.columns),
            positions=of(self.positions),
            mask=of(self.mask),
            scored=of(self.scored),
            past=tuple((of(keys), of(values)) for keys, values in self.past),
        )

    def final(self, hidden: Tensor) -> Tensor:
        """Final hidden states after the last norm, (M, D), at the scored positions.

        Args:
            hidden: What enters the first layer, of whole rows, (B, T, D); the tails alone are read.
        """
        held = _cache(self.first_layer, self.past) if self.past else None
        states = _gathered(hidden, self.columns)
        return run_part(self.part, states, self.mask, self.positions, held)[self._scored_at]

    @cached_property
    def _scored_at(self) -> tuple[Tensor, Tensor]:
        rows, columns = self.scored.nonzero(as_tuple=True)
        return _beside(rows, self.columns), _beside(columns, self.columns)


@torch.no_grad()
def tail_of(
    model: nn.Module,
    part: nn.Module,
    first_layer: int,
    prompts: PromptBatch,
    hidden: Tensor,
    starts: Tensor,
) -> Tail:
    """Run what stands before the starts, once.

    Args:
        model: What `part` is of.
        part: The layers from `first_layer` up, with the final norm.
        first_layer: See above.
        prompts: Whole rows.
        hidden: What enters `first_layer`, (B, T, D).
        starts: Column of each row's first token that a change reaches, (B,), on the host.

    Raises:
        ValueError: If a position before its row's start is scored: no change reaches it.
    """
    host, starts = prompts.on_host, starts[:, None]
    width = host.input_ids.shape[1]
    is_real, is_before = host.attention_mask.bool(), torch.arange(width) < starts
    if bool((host.scored & is_before).any()):
        raise ValueError("a position is scored that stands before what a change can reach")
    num_kept = int((is_real & is_before).sum(1).max())
    num_left = int((is_real & ~is_before).sum(1).max())
    columns = starts + torch.arange(-num_kept, num_left)
    is_inside = (columns >= 0) & (columns < width)
    columns = columns.clamp(0, width - 1)
    real = is_inside & is_real.gather(1, columns)
    positions = host.position_ids.gather(1, columns) * real
    made = mask_of_layers(model, part, real.long(), positions, hidden.dtype)
    there = _beside(columns, hidden)
    past: tuple[KeysAndValues, ...] = ()
    if num_kept:
        before = real[:, :num_kept], positions[:, :num_kept]
        past = _kept(model, part, first_layer, _gathered(hidden, there[:, :num_kept]), *before)
    return Tail(
        part,
        first_layer,
        there[:, num_kept:],
        _beside(positions[:, num_kept:], hidden),
        _beside(real.long() if made is None else made[:, :, num_kept:], hidden),
        (real & host.scored.gather(1, columns))[:, num_kept:],
        past,
    )


def _beside(tensor: Tensor, like: Tensor) -> Tensor:
    """What was found on the host, on the device of `like`; nobody waits for the copy."""
    return tensor.to(like.device, non_blocking=True)


def _gathered(hidden: Tensor, columns: Tensor) -> Tensor:
    """(B, T, D) and (B, S) -> (B, S, D)."""
    return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))


def _kept(
    model: nn.Module,
    part: nn.Module,
    first_layer: int,
    states: Tensor,
    real: Tensor,
    positions: Tensor,
) -> tuple[KeysAndValues, ...]:
    """Keys and values that the layers make of states (B, P, D), padded in front.

    They are 0 on padding, where attention must find numbers though it does not weigh them.
    """
    seen = real.clone()
    seen[:, -1] |= ~real.any(1)  # of a row without a token nobody reads what this gives
    made = mask_of_layers(model, part, seen.long(), positions, states.dtype)
    mask = _beside(seen.long() if made is None else made, states)
    held = _cache(first_layer, ())
    run_part(part, states, mask, _beside(positions, states), held)
    is_padding = ~real[:, None, :, None]

    def cleared(made: Tensor) -> Tensor:
        return made.masked_fill(_beside(is_padding, made), 0.0)

    layers = held.layers[first_layer:]
    return tuple((cleared(layer.keys), cleared(layer.values)) for layer in layers)


def _cache(first_layer: int, past: tuple[KeysAndValues, ...]) -> Any:
    """A cache of the whole model that holds `past` from `first_layer` on.

    A decoder asks its first layer how many tokens came before, though that is not run here.
    """
    from transformers import DynamicCache  # a second: not for a driver with nothing to run

    held: Any = DynamicCache()
    held.layer_class_to_replicate = _layer_class()
    if past and first_layer:
        told = torch.zeros(1, 1, past[0][0].shape[2], 1)
        held.update(told, told, 0)
    for layer, (keys, values) in enumerate(past, first_layer):
        held.update(keys, values, layer)
    return held


@cache
def _layer_class() -> type:
    """A layer of a cache that begins without a tensor made on the host, which a GPU waits for."""
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):
        def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
            self.is_initialized = True

    return Layer
