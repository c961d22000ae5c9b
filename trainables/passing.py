"""A loss whose rows pass frozen layers in its middle, alone or together with those of other losses.

What a method makes of its rows before those layers, and of their answers behind them, is its own.
The layers between are the same for all trials that edit the same layer of the same backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol, TypeAlias

from torch import Tensor


class Passage(Protocol):
    """Rows that are about to enter the frozen layers."""

    def alone(self) -> Tensor:
        """What becomes of them without others beside them, (M, ...)."""
        ...


# Yields at most one passage, is sent what became of it, and returns the scalar loss.
Passing: TypeAlias = Generator[Passage, Tensor, Tensor]


class UnderWay:
    """A loss of which the first half is computed.

    Attributes:
        passage: The rows that are to pass the frozen layers; None: the loss needs none.
    """

    def __init__(self, halves: Passing) -> None:
        """Compute the first half."""
        self._halves = halves
        self._whole: Tensor | None = None
        self.passage: Passage | None = None
        try:
            self.passage = next(halves)
        except StopIteration as end:
            self._whole = end.value

    def alone(self) -> Tensor:
        """The scalar loss, its rows passing by themselves."""
        return self.loss(None if self.passage is None else self.passage.alone())

    def loss(self, passed: Tensor | None) -> Tensor:
        """The scalar loss, once `passed` became of its passage; None where it has none."""
        if self._whole is not None:
            return self._whole
        assert passed is not None
        try:
            self._halves.send(passed)
        except StopIteration as end:
            self._whole = end.value
        assert self._whole is not None, "a loss passes the frozen layers once"
        return self._whole


class PassingLoss:
    """A scalar loss in two halves; called, it computes both."""

    def __init__(self, halves: Callable[[], Passing]) -> None:
        """`halves` begins to compute it at the present parameters."""
        self._halves = halves

    def __call__(self) -> Tensor:
        """The scalar loss."""
        return self.begin().alone()

    def begin(self) -> UnderWay:
        """Compute its first half."""
        return UnderWay(self._halves())
