"""How many rows pass a frozen part of a backbone at once.

The layers above an edited one are a function of each row alone: no row sees another. Run in pieces,
and each piece once more in the backward pass, they need the memory of one piece, while loss and
gradients stay those of the whole batch, whatever terms a method's loss has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainables.parallel.ranks import Ranks


class RowPieces:
    """The micro-batch of one backbone in one process; it decides memory, never a number.

    Attributes:
        limit: Most rows at a time; None: all.
        ranks: The processes that share the trial; None: there is this one.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.ranks: Ranks | None = None
        self._most_rows = 1
        self._is_alone = False

    def at_most(self, rows: int) -> int:
        """`rows`, or the limit where that is less."""
        return rows if self.limit is None else min(rows, self.limit)

    def note(self, rows: int) -> None:
        """Remember how large a batch was met, for `halve`."""
        self._most_rows = max(self._most_rows, rows)

    def halve(self) -> int:
        """Half of the most rows that were let through at a time, as new limit; 0: it was one."""
        halved = self.at_most(self._most_rows) // 2
        if halved:
            self.limit = halved
        return halved

    def cut(self, num_rows: int) -> list[slice]:
        """The pieces of a batch; a single one where it is within the limit."""
        self.note(num_rows)
        size = self.at_most(num_rows)
        return [slice(start, start + size) for start in range(0, num_rows, size)]

    def is_one(self, num_rows: int) -> bool:
        """Whether `divided` would run so many rows here and at once."""
        return not self._is_divided(num_rows) and len(self.cut(num_rows)) == 1

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within the block nothing is divided.

        For what only some ranks compute, because others find it in a cache: these would not come to
        the exchange.
        """
        before, self._is_alone = self._is_alone, True
        try:
            yield
        finally:
            self._is_alone = before

    def divided(
        self, function: Callable[..., Tensor], counts: Tensor, states: Tensor, *rows: Tensor
    ) -> Tensor:
        """`apply`, with the rows divided among the ranks; the result is whole on each.

        All ranks must call it with the same rows, and `function` must train nothing.

        Args:
            function: As for `apply`.
            counts: Outputs of each row, (B,).
            states: (B, ...), all that gradients flow to.
            rows: Further tensors (B, ...).
        """
        if self.ranks is None or not self._is_divided(len(states)):
            return self.apply(function, states, *rows)
        shares = self.ranks.counts(len(states))
        own = self.ranks.own(shares)
        part = self.ranks.share(states, shares)
        result = self.apply(function, part, *(tensor[own] for tensor in rows))
        outputs = [int(some.sum()) for some in counts.split(shares)]
        return self.ranks.joined(result, outputs)

    def _is_divided(self, num_rows: int) -> bool:
        # With fewer rows than ranks some would have nothing to run.
        return self.ranks is not None and not self._is_alone and num_rows >= self.ranks.size

    def apply(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """`function(*rows)`, computed piece by piece where there are more rows than the limit.

        Args:
            function: Maps tensors with B rows to one with any number for each, in their order; the
                outputs of a row must depend on that row alone.
            rows: Tensors (B, ...).
        """
        pieces = self.cut(len(rows[0]))
        if len(pieces) == 1:
            return function(*rows)
        parts = [[tensor[piece] for tensor in rows] for piece in pieces]
        if not torch.is_grad_enabled():
            return torch.cat([function(*part) for part in parts])
        return torch.cat([_recomputed(function, part) for part in parts])


def _recomputed(function: Callable[..., Tensor], arguments: list[Tensor]) -> Tensor:
    """`function(*arguments)`, computed again in the backward pass instead of kept."""
    from torch.utils.checkpoint import checkpoint  # half a second; only where memory is short

    # Nothing random stands in a frozen backbone: it is in evaluation mode.
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result
