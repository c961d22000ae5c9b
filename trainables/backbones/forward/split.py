"""Run only the layers from `first_layer` up, on cached hidden states of everything below.

Layers below the edited one are frozen, so the hidden states entering it depend on the prompt alone.
They are computed once per backbone, layer and prompt and shared by all trials of a process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from trainables.backbones.forward.layer_mask import LayerMasks
from trainables.backbones.forward.packing import Packings
from trainables.backbones.forward.parts import decoder_part, head, run_part
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.tail import Tail, tail_of
from trainables.errors import BackboneError
from trainables.interfaces import Backbone, DecodeState, PromptBatch

# Makes something of the logits of each scored token, and of what is held for it.
PerToken: TypeAlias = Callable[..., Tensor]


class Split:
    """A backbone seen from `first_layer` up; the parts above are shared, not copied.

    With `first_layer` = num_layers only the final norm and the head are left.

    Whatever a method puts into layers >= `first_layer` is seen here too. A method must not change
    anything below `first_layer`, or cached states would be stale.
    """

    def __init__(
        self,
        backbone: Backbone,
        first_layer: int,
        cache: PrefixCache,
        *,
        has_batch_state: bool = True,
        packs: bool = False,
    ) -> None:
        """Make the parts of the backbone below and above `first_layer`.

        Args:
            backbone: Its `micro_batch` says how many rows run at a time.
            first_layer: From 0 to num_layers.
            cache: Of hidden states.
            has_batch_state: Whether `first_layer` may hold what belongs to the rows of a whole
                batch, such as a route or a hook; it then always runs on the whole batch. No
                layer above it may hold such a thing.
            packs: Whether `per_token` may pack rows that run all at once (`Packing`) in the layers
                that hold nothing of the batch. What is put there must treat each token alone, and
                find it by `MicroBatch.places` if it tells tokens apart.
        """
        if not 0 <= first_layer <= backbone.num_layers:
            raise ValueError(f"first_layer is {first_layer}; allowed: 0 to {backbone.num_layers}")
        self.backbone = backbone
        self.first_layer = first_layer
        self._cache = cache
        self._kept_at = _kept_at(backbone, first_layer)
        self._parts: dict[tuple[int, int], nn.Module] = {}
        self._upper = decoder_part(backbone, first_layer, backbone.num_layers, has_norm=True)
        # Of several micro-batches: the layers that still run on all rows, and those that do not.
        plain = min(first_layer + has_batch_state, backbone.num_layers)
        self._keeps_whole = plain > first_layer
        self._whole = decoder_part(backbone, first_layer, plain, has_norm=False)
        self._plain = decoder_part(backbone, plain, backbone.num_layers, has_norm=True)
        self._masks = LayerMasks(backbone.model)
        self._first_plain, self._packs = plain, packs
        has_layers = packs and plain < backbone.num_layers
        self._packings = (
            Packings(backbone.model, self._plain, backbone.hidden_size) if has_layers else None
        )

    @cached_property
    def above(self) -> Split:
        """The layers that hold nothing of a batch, with the head, seen by themselves."""
        if not self._keeps_whole:
            return self
        first, packs = self._first_plain, self._packs
        return Split(self.backbone, first, self._cache, has_batch_state=False, packs=packs)

    def entering_above(self, prompts: PromptBatch, hidden: Tensor) -> Tensor:
        """What enters the layers of `above`, (B, T, D), by what enters `first_layer`."""
        return self._run_whole(prompts, hidden) if self._keeps_whole else hidden

    @torch.no_grad()
    def hidden(self, prompts: PromptBatch) -> Tensor:
        """Hidden states entering `first_layer`, (B, T, D); of no meaning on padding.

        For layer 0 these are the plain embeddings: what the decoder does before it, it does itself.

        Raises:
            BackboneError: If a row is longer than the backbone has positions.
        """
        limit, width = self.backbone.max_positions, prompts.input_ids.shape[1]
        if limit is not None and width > limit:
            # Of what methods put in front of an edit; records that are too long never get here.
            raise BackboneError(f"a row of {width} tokens is longer than the {limit} positions")
        if self.first_layer == 0:
            return self.backbone.embedding(prompts.input_ids)
        found = [self._cache.get(self._key(ids, self.first_layer)) for ids in prompts.real_ids]
        missing: dict[int, dict[int, Tensor | None]] = {}  # by layer, then row: what enters there
        for row, states in enumerate(found):
            if states is None:
                layer, below = self._below(prompts.real_ids[row])
                missing.setdefault(layer, {})[row] = below
        for layer, rows in missing.items():
            part = prompts.rows(torch.tensor([*rows]))
            entering = [states for states in rows.values() if states is not None]
            for row, states in zip(rows, self._from_layer(layer, part, entering), strict=True):
                found[row] = states
        return self._padded(prompts, [states for states in found if states is not None])

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None, hidden: Tensor | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Next-token logits (M, V) at the scored positions.

        Args:
            prompts: Whole rows; while decoding the prompts, then the new tokens of each row.
            state: None for whole rows; a fresh state to start a generation, then the one returned.
            hidden: What `hidden(prompts)` returned, so that a training loop asks once.
        """
        if state is not None:
            return _decode(self.backbone, prompts, state)
        return head(self.backbone, self.final(prompts, hidden)), DecodeState()

    def per_token(
        self,
        function: PerToken,
        prompts: PromptBatch,
        *held: Tensor,
        hidden: Tensor | None = None,
        tail: Tail | None = None,
    ) -> Tensor:
        """`function(logits, *held)` at the scored positions of whole rows, (M, ...).

        Where rows run in micro-batches, so do the head and `function`: no more logits exist at a
        time than those of one micro-batch. A loss that reads `logits` instead holds all (M, V).

        Args:
            function: Maps logits (m, V), and what is held for the same positions, to (m, ...); a
                position must not depend on another.
            prompts: Whole rows.
            held: Tensors (M, ...) that no gradient flows to.
            hidden: As in `logits`.
            tail: What `tail` returned for these rows, if `hidden` has changed there alone since;
                rows that run all at once then run no further token.
        """
        states = self.hidden(prompts) if hidden is None else hidden
        micro_batch = self.backbone.micro_batch
        if micro_batch.is_whole(len(states)):
            whole = self._packed_final(prompts, states) if tail is None else tail.final(states)
            return function(head(self.backbone, whole), *held)

        def some(final: Tensor, *held: Tensor) -> Tensor:
            return function(head(self.backbone, final), *held)

        return self._in_pieces(some, prompts, states, held)

    def tail(self, prompts: PromptBatch, hidden: Tensor, starts: Tensor) -> Tail | None:
        """What of whole rows a change from a column of their own on, `starts` (B,), can reach.

        None where the rows do not run all at once: to keep so much would take what that saves.

        Args:
            prompts: No position before a row's start is scored.
            hidden: What enters `first_layer`, (B, T, D). Nothing may change before the starts,
                neither here nor in a layer, as long as the tail is used.
            starts: Columns of real tokens, on the host.
        """
        if not self.backbone.micro_batch.is_whole(len(hidden)):
            return None
        return tail_of(self.backbone.model, self._upper, self.first_layer, prompts, hidden, starts)

    def final(self, prompts: PromptBatch, hidden: Tensor | None = None) -> Tensor:
        """Final hidden states after the last norm, (M, D), at the scored positions of whole rows.

        `hidden` as in `logits`.
        """
        states = self.hidden(prompts) if hidden is None else hidden
        micro_batch = self.backbone.micro_batch
        if micro_batch.is_whole(len(states)):
            return self._whole_final(prompts, states)
        return self._in_pieces(lambda final: final, prompts, states, ())

    def _in_pieces(
        self,
        function: Callable[..., Tensor],
        prompts: PromptBatch,
        states: Tensor,
        held: Sequence[Tensor],
    ) -> Tensor:
        """`function(final, *held)` of the scored positions, some rows at a time, (M, ...)."""
        positions, numbers = prompts.position_ids, torch.arange(len(states), device=states.device)
        if self._keeps_whole:
            states = self._run_whole(prompts, states)

        def some(
            states: Tensor,
            mask: Tensor,
            positions: Tensor,
            numbers: Tensor,
            rows: Tensor,
            columns: Tensor,
            *held: Tensor,
        ) -> Tensor:
            final = run_part(self._plain, states, mask, positions)
            return function(final[rows - numbers[0], columns], *held)

        return self.backbone.micro_batch.apply_on_ranks(
            some,
            (states, self._masks.of(self._plain, prompts, states), positions, numbers),
            (*prompts.scored_at, *held),
            prompts.scored_counts,
        )

    def _whole_final(self, prompts: PromptBatch, states: Tensor) -> Tensor:
        """`final` of rows that run all at once."""
        mask = self._masks.of(self._upper, prompts, states)
        return run_part(self._upper, states, mask, prompts.position_ids)[prompts.scored_at]

    def _packed_final(self, prompts: PromptBatch, states: Tensor) -> Tensor:
        """As `_whole_final`, with rows packed where they may be and that saves work."""
        packing = None if self._packings is None else self._packings.of(prompts, states.dtype)
        if packing is None:
            return self._whole_final(prompts, states)
        if self._keeps_whole:
            states = self._run_whole(prompts, states)
        packed = packing.packed(states)
        with self.backbone.micro_batch.packed(packing.source):
            final = run_part(self._plain, packed, packing.mask, packing.positions)
        return packing.at_scored(final)

    def _run_whole(self, prompts: PromptBatch, states: Tensor) -> Tensor:
        mask = self._masks.of(self._whole, prompts, states)
        return run_part(self._whole, states, mask, prompts.position_ids)

    def _below(self, ids: Tensor) -> tuple[int, Tensor | None]:
        """The highest layer under `first_layer` whose entering states are kept, and these.

        0 and None where none are.
        """
        for layer in reversed(self._kept_at[:-1]):
            states = self._cache.find(self._key(ids, layer))
            if states is not None:
                return layer, states
        return 0, None

    def _from_layer(
        self, layer: int, prompts: PromptBatch, entering: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """States entering `first_layer` of whole rows, by those `entering` a layer above 0."""
        lengths = [len(ids) for ids in prompts.real_ids]
        found = entering
        states = self._padded(prompts, entering) if entering else None
        for stop in (kept for kept in self._kept_at if kept > layer):
            if states is None:
                states = self.backbone.embedding(prompts.input_ids)
            states = self.backbone.micro_batch.apply(
                partial(run_part, self._part(layer, stop)),
                *(states, prompts.attention_mask, prompts.position_ids),
            )
            found = [row.clone() for row in states[prompts.real_at].split(lengths)]
            for ids, row in zip(prompts.real_ids, found, strict=True):
                self._cache.put(self._key(ids, stop), row)
            layer = stop
        return found

    def _part(self, first: int, stop: int) -> nn.Module:
        """The layers [first, stop), made once."""
        if (first, stop) not in self._parts:
            made = decoder_part(self.backbone, first, stop, has_norm=False)
            self._parts[first, stop] = made
        return self._parts[first, stop]

    def _padded(self, prompts: PromptBatch, rows: Sequence[Tensor]) -> Tensor:
        """States of each row's real tokens -> (B, T, D)."""
        hidden = rows[0].new_zeros(*prompts.input_ids.shape, self.backbone.hidden_size)
        hidden[prompts.real_at] = torch.cat([*rows])
        return hidden

    def _key(self, ids: Tensor, layer: int) -> tuple[str, int, bytes]:
        digest = hashlib.blake2b(ids.numpy().tobytes(), digest_size=16).digest()
        return self.backbone.memory_key, layer, digest


def _kept_at(backbone: Backbone, first_layer: int) -> list[int]:
    """The layers for which entering states are kept on the way to `first_layer`, the last of all.

    Trials edit different layers: those in the upper half find what others have computed up to a
    tenth of all layers below their own. On a GPU memory is dearer than layers.
    """
    half, tenth = backbone.num_layers // 2, max(1, backbone.num_layers // 10)
    among = range(half, first_layer, tenth) if backbone.device.type == "cpu" else ()
    return [*among, first_layer]


def _decode(
    backbone: Backbone, prompts: PromptBatch, state: DecodeState
) -> tuple[Tensor, DecodeState]:
    """Logits (M, V) by the whole backbone with a key-value cache.

    Rows may be padded on either side: positions come from the mask, and padding between a prompt
    and its continuation stays masked. With sliding windows no padding may stay there: a window
    counts columns, whatever is in them.
    """
    from transformers import DynamicCache  # a second: not for a driver with nothing to run

    decoder = backbone.model.get_submodule(backbone.family.decoder)
    backbone.micro_batch.note_rows(len(prompts.input_ids))
    mask = prompts.attention_mask
    if state.attention_mask is not None:
        mask = torch.cat([state.attention_mask, mask], dim=1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -prompts.input_ids.shape[1] :]
    out = decoder(
        input_ids=prompts.input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=DynamicCache() if state.cache is None else state.cache,
        use_cache=True,
    )
    logits = head(backbone, out.last_hidden_state[prompts.scored_at])
    if state.cache is None and getattr(decoder.config, "sliding_window", None) is not None:
        mask = _padded_in_front(out.past_key_values, mask)
    return logits, DecodeState(out.past_key_values, mask, state.route)


def _padded_in_front(cache: Any, mask: Tensor) -> Tensor:
    """Turns each row of `cache` until its padding is in front; the mask (B, T) of the turned rows.

    Keys bear their positions already, so nothing but their columns changes.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    behind = mask.shape[1] - 1 - torch.where(mask.bool(), columns, -1).amax(1)
    if not behind.any():
        return mask
    source = (columns - behind[:, None]) % mask.shape[1]
    for layer in cache.layers:
        index = source[:, None, :, None].to(layer.keys.device)
        layer.keys = layer.keys.gather(2, index.expand_as(layer.keys))
        layer.values = layer.values.gather(2, index.expand_as(layer.values))
    return mask.gather(1, source)
