"""Runs the frozen layers of a backbone on a few rows at a time, so that a batch fits into memory.

The layers above an edited one treat each row alone: no row sees another. Run on one micro-batch
after the other, and on each once more in the backward pass, they need the memory of a single one,
while loss and gradients stay those of the whole batch, whatever terms a method's loss has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from trainables.parallel.ranks import Ranks


class MicroBatch:
    """How many rows of a backbone run at a time in this process; it decides memory, never a number.

    Attributes:
        limit: Most rows in a micro-batch; None: all rows run at once.
        ranks: The processes that share the trial; None: this one runs it alone.
        running: The rows that run, by their numbers in the whole batch, for whoever draws noise or
            holds something by them; also where they run again on the way back. None: all of them.
        places: Where rows run packed: the number, row * T + column of the whole batch, of what
            stands in each of their places, (G, W). None: they run as they are.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.ranks: Ranks | None = None
        self.running: slice | None = None
        self.places: Tensor | None = None
        self._most_rows = 1
        self._is_undivided = False

    def at_most(self, rows: int) -> int:
        """`rows`, or the limit where that is less."""
        return rows if self.limit is None else min(rows, self.limit)

    def note_rows(self, rows: int) -> None:
        """Remember the size of the largest batch so far, for `halve`."""
        self._most_rows = max(self._most_rows, rows)

    def halve(self) -> int:
        """Halve the most rows that ran at a time so far; the new limit, or 0 if it was one row."""
        halved = self.at_most(self._most_rows) // 2
        if halved:
            self.limit = halved
        return halved

    def slices(self, num_rows: int) -> list[slice]:
        """The rows of each micro-batch; a single slice where the batch is within the limit."""
        self.note_rows(num_rows)
        size = self.at_most(num_rows)
        return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]

    def is_whole(self, num_rows: int) -> bool:
        """Whether `apply_on_ranks` would run so many rows in this process and all at once."""
        return not self._is_divided(num_rows) and len(self.slices(num_rows)) == 1

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """Within the block this process runs all rows itself.

        For what only some ranks compute, because the others find it in a cache: those would never
        come to the exchange.
        """
        before, self._is_undivided = self._is_undivided, True
        try:
            yield
        finally:
            self._is_undivided = before

    @contextmanager
    def packed(self, places: Tensor) -> Iterator[None]:
        """Within the block rows run packed; see `places`."""
        self.places = places
        try:
            yield
        finally:
            self.places = None

    def apply_on_ranks(
        self,
        function: Callable[..., Tensor],
        rows: Sequence[Tensor],
        outputs: Sequence[Tensor],
        counts: Sequence[int],
    ) -> Tensor:
        """As `apply`, with the rows divided among the ranks; each gets the whole result.

        All ranks must call it with the same rows, and `function` must train nothing.

        Args:
            function: Maps some `rows`, and what stands for their outputs, to these, (m, ...); the
                outputs of a row must depend on that row alone.
            rows: Tensors (B, ...); gradients flow to the first one alone.
            outputs: Tensors (M, ...), with one entry for each output of the first row, then of the
                second, and so on.
            counts: How many outputs each row has, B numbers.
        """
        if self.ranks is None or not self._is_divided(len(rows[0])):
            return self._apply(function, rows, outputs, counts)
        shares = self.ranks.counts(len(rows[0]))
        own = self.ranks.own(shares)
        part = self.ranks.share(rows[0], shares)
        ends = [0, *accumulate(counts)]
        result = self._apply(
            function,
            [part, *(tensor[own] for tensor in rows[1:])],
            [tensor[ends[own.start] : ends[own.stop]] for tensor in outputs],
            counts[own],
            own.start,
        )
        stops = [0, *accumulate(shares)]
        return self.ranks.joined(
            result, [ends[stop] - ends[first] for first, stop in pairwise(stops)]
        )

    def agreed(self, values: Tensor) -> Tensor:
        """`values` as rank 0 has them; by them every rank decides alike, whatever the rounding."""
        return values if self.ranks is None else self.ranks.first(values)

    def _is_divided(self, num_rows: int) -> bool:
        # With fewer rows than ranks some would have nothing to run.
        return self.ranks is not None and not self._is_undivided and num_rows >= self.ranks.size

    def apply(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """`function(*rows)`, one micro-batch after the other where rows exceed the limit.

        Args:
            function: Maps tensors with B rows to one with any number for each, in their order; the
                outputs of a row must depend on that row alone.
            rows: Tensors (B, ...).
        """
        return self._apply(function, rows, (), [0] * len(rows[0]))

    def _apply(
        self,
        function: Callable[..., Tensor],
        rows: Sequence[Tensor],
        outputs: Sequence[Tensor],
        counts: Sequence[int],
        first: int | None = None,
    ) -> Tensor:
        """Run `function` in pieces; `first` is the number of the first row, if others run more."""
        slices = self.slices(len(rows[0]))
        before = first or 0
        numbers = [slice(before + some.start, before + some.stop) for some in slices]
        if len(slices) == 1 and first is None:
            return function(*rows, *outputs)
        if len(slices) == 1:
            return self._run(function, numbers[0], *rows, *outputs)
        ends = [0, *accumulate(counts)]
        parts = [
            [tensor[some] for tensor in rows]
            + [tensor[ends[some.start] : ends[some.stop]] for tensor in outputs]
            for some in slices
        ]
        each = [
            (partial(self._run, function, running), part)
            for running, part in zip(numbers, parts, strict=True)
        ]
        if not torch.is_grad_enabled():
            return torch.cat([run(*part) for run, part in each])
        return torch.cat([_recomputed(run, part) for run, part in each])

    def _run(self, function: Callable[..., Tensor], rows: slice, *arguments: Tensor) -> Tensor:
        before, self.running = self.running, rows
        try:
            return function(*arguments)
        finally:
            self.running = before


def _recomputed(function: Callable[..., Tensor], arguments: list[Tensor]) -> Tensor:
    """`function(*arguments)`, computed again in the backward pass instead of kept."""
    from torch.utils.checkpoint import checkpoint  # half a second; only where memory is short

    # A frozen backbone draws nothing at random, as it is in evaluation mode, and what stands in it
    # draws by `MicroBatch.running`: what is computed again is the same, and need not be compared.
    result: Tensor = checkpoint(
        function,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=False,
        determinism_check="none",
    )
    return result
