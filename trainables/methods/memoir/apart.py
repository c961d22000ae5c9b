"""Edits of MEMOIR that are each rolled back: trained side by side, each in columns of its own.

Of a memory that only one edit has seen, the columns that its mask leaves out are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.backbones.hidden_states.down_site import DownSite
from trainables.interfaces import EditBatch, EditReport, PromptBatch, State
from trainables.moe.side_training import EditRows
from trainables.optimise import (
    Optimisation,
    OptimiserSettings,
    TargetRows,
    Together,
    row_means,
    token_losses,
)
from trainables.prompts import batch_state, row_index

_MOST, _MOST_BYTES, _COPIES = 8, 2**28, 4


def most_apart(memory: Tensor) -> int:
    """Edits at a time: few, as each has rows enough for a core, and within a quarter of a GiB.

    As if each trained a whole `memory`, with its gradient and what is made of that.
    """
    return max(1, min(_MOST, _MOST_BYTES // (_COPIES * memory.nbytes)))


@dataclass(frozen=True)
class Own:
    """What one edit has by itself.

    Attributes:
        mask: Its columns, (F,) bool.
        centre: What was taken off its pattern, (F,); None: nothing.
        counts: Fall-backs, by name.
    """

    mask: Tensor
    centre: Tensor | None
    counts: dict[str, int]


@dataclass(frozen=True)
class _Part:
    """The rows of some edits, those of one edit after those of another.

    Attributes:
        tokens: The rows.
        labels: Their target tokens, (M,).
        scored: The row of each target token.
        layer: What leaves the layer, (R, T, D).
        masked: Of each edit what enters its columns, (rows of the edit, T, k).
    """

    tokens: PromptBatch
    labels: Tensor
    scored: TargetRows
    layer: Tensor
    masked: list[Tensor]


class MemoriesApart:
    """Edits side by side, each with k columns of a memory that no other edit writes."""

    def __init__(
        self,
        batch: EditBatch,
        each: Sequence[Own],
        rows: EditRows,
        site: DownSite,
        settings: OptimiserSettings,
        clipped: Callable[[Tensor], Tensor],
    ) -> None:
        """All memories are zero.

        Args:
            batch: The edits.
            each: What each has by itself.
            rows: Their rows, with the forms that each is trained on.
            site: The layer that is edited.
            settings: Of each edit's optimiser.
            clipped: Shortens a gradient.
        """
        self.batch, self.each = batch, tuple(each)
        self._rows, self._site = rows, site
        # By edit: its rows, and its columns.
        self._rows_of = [(rows.edit_of_row == n).nonzero()[:, 0] for n in range(len(batch))]
        self._columns = [own.mask.nonzero()[:, 0] for own in each]
        self._wide = torch.promote_types(rows.edited.inputs.dtype, torch.float32)
        self._running: tuple[tuple[int, ...], _Part] | None = None
        width = rows.edited.layer.shape[-1]
        self._memories = [
            nn.Parameter(columns.new_zeros(width, len(columns), dtype=self._wide))
            for columns in self._columns
        ]
        for memory in self._memories:
            memory.register_hook(clipped)
        self._together = Together(
            [
                Optimisation({"memory": memory}, lambda: torch.zeros(()), settings)
                for memory in self._memories
            ],
            self._losses,
            site.backbone.micro_batch.agreed,
        )

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps of each edit; True when all are done."""
        return self._together.advance(max_steps)

    def reports(self) -> list[EditReport]:
        """How each edit went."""
        return [
            EditReport(1, of_edit.steps_taken, of_edit.last_loss or 0.0, counts=own.counts)
            for of_edit, own in zip(self._together.each, self.each, strict=True)
        ]

    def memory(self, number: int) -> Tensor:
        """The whole memory of one edit, (D, F)."""
        own, mask = self._memories[number].detach(), self.each[number].mask
        memory = own.new_zeros(len(own), len(mask))
        memory[:, self._columns[number]] = own
        return memory

    def state(self) -> State:
        """What these edits need to go on."""
        state = State({str(n): memory.detach() for n, memory in enumerate(self._memories)})
        state.nest("batch", batch_state(self.batch))
        for number, of_edit in enumerate(self._together.each):
            state.nest(f"optimisation {number}", of_edit.state())
        return state

    @torch.no_grad()
    def resume(self, state: State) -> None:
        """Go on with what `state` gave of the same batch."""
        for number, memory in enumerate(self._memories):
            memory.copy_(state.tensors[str(number)])
        for number, of_edit in enumerate(self._together.each):
            of_edit.load(state.inner(f"optimisation {number}"))

    def _losses(self, running: Sequence[int]) -> Tensor:
        """The loss of each of these edits, (n,): the mean over its rows."""
        part = self._part(tuple(running))
        shifts = [
            nn.functional.linear(masked, self._memories[number])
            for number, masked in zip(running, part.masked, strict=True)
        ]
        output = part.layer + torch.cat(shifts).to(part.layer.dtype)
        losses = self._site.per_token(token_losses, part.tokens, output, part.labels)
        of_rows = row_means(losses, part.scored).split([len(masked) for masked in part.masked])
        return torch.stack([own.mean() for own in of_rows])

    def _part(self, running: tuple[int, ...]) -> _Part:
        """The rows of those edits that go on, made anew when one of them is done."""
        if self._running is None or self._running[0] != running:
            self._running = running, self._made(running)
        return self._running[1]

    def _made(self, running: tuple[int, ...]) -> _Part:
        edited, chosen = self._rows.edited, torch.cat([self._rows_of[n] for n in running])
        of_row = self._rows.labels.split(edited.tokens.scored_counts)
        tokens = edited.tokens.rows(chosen)
        return _Part(
            tokens,
            torch.cat([of_row[row] for row in chosen.tolist()]),
            TargetRows.of(row_index(tokens)),
            edited.layer[chosen],
            [
                edited.inputs[self._rows_of[n]][..., self._columns[n]].to(self._wide)
                for n in running
            ],
        )
