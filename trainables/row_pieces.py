"""How many rows pass a frozen part of a backbone at once.

The layers above an edited one are a function of each row alone: no row sees another. Run in pieces,
and each piece once more in the backward pass, they need the memory of one piece, while loss and
gradients stay those of the whole batch, whatever terms a method's loss has.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class RowPieces:
    """The micro-batch of one backbone in one process; it decides memory, never a number.

    Attributes:
        limit: Most rows at a time; None: all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._most_rows = 1

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
