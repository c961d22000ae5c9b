"""How a trial's batches are learned: one after the other, or several of one edit side by side."""

from __future__ import annotations

from collections.abc import Callable

from trainables.interfaces import EditBatch, EditMethod, EditReport, SideBySide, State
from trainables.trials.packs.edits import EachApart, most_apart

Make = Callable[[], EditMethod]


class Learner:
    """The method of a trial.

    Attributes:
        num_together: Batches that are learned side by side now, or were last.
    """

    def __init__(self, make: Make, make_apart: Make | None = None) -> None:
        """Build the method; nothing is learned yet.

        Args:
            make: Builds a prepared method on the pristine backbone.
            make_apart: The same on modules of its own, so that edits which are each rolled back
                may have a method each; None: they may not.
        """
        self._make, self._make_apart = make, make_apart
        self._method = make()
        self._each: EachApart | None = None  # learns in its place
        self._most_apart: int | None = None  # unknown
        self.num_together = 1

    @property
    def method(self) -> EditMethod:
        """What answers; of edits with a method each, that of the one taken."""
        return self._method if self._each is None else self._each.taken

    def most_side_by_side(self, first: Callable[[], EditBatch]) -> int:
        """Single edits that may be learned at a time, each to be rolled back.

        Args:
            first: Makes a batch of the next one.
        """
        if isinstance(self._method, SideBySide):
            return self._method.most_side_by_side
        if self._make_apart is None:
            return 1
        if self._most_apart is None:
            self._method.begin(first())
            self._most_apart = most_apart(self._method)
            self.roll_back()
        return self._most_apart

    def make_ready(self, num_together: int) -> None:
        """Make the methods that so many single edits need, if each has its own."""
        if num_together > 1 and self._make_apart and not isinstance(self._method, SideBySide):
            self._each = self._each or EachApart(self._make_apart)
            self._each.make_ready(num_together)

    def begin(self, batch: EditBatch, num_together: int) -> None:
        """Begin a batch, or so many single edits of one."""
        self.num_together = num_together
        if num_together == 1:
            self._method.begin(batch)
            return
        self.make_ready(num_together)
        self._side_by_side.begin_each(batch)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps; True when all that was begun is done.

        Raises:
            EditDiverged: If a loss is not finite.
        """
        return self._now.advance(max_steps)

    def finish(self) -> list[EditReport]:
        """Commit what was begun; a report for each batch."""
        if self.num_together == 1:
            return [self._method.finish()]
        return self._side_by_side.finish_each()

    def take(self, number: int) -> None:
        """Answer as with one alone of the batches that are learned together."""
        if self.num_together > 1:
            self._side_by_side.take(number)

    def roll_back(self, *, goes_on: bool = True) -> None:
        """Forget all edits; `goes_on`: others follow."""
        self._now.remove()
        if self._each is not None:
            self._each = None
        elif goes_on:
            self._method = self._make()

    def state(self) -> State:
        """What is needed to go on with what was begun."""
        state = State(values={"num_together": self.num_together})
        state.values["has_method_each"] = self._each is not None
        state.nest("method", self._now.state())
        return state

    def load(self, state: State) -> bool:
        """Continue from `state`; False: what was begun must begin anew.

        That is so where edits had a method each, and no memory is left for it.
        """
        if state.values["has_method_each"]:
            if self._make_apart is None:
                return False
            self._each = EachApart(self._make_apart)
        self.num_together = int(str(state.values["num_together"]))
        self._now.load(state.inner("method"))
        return True

    @property
    def _now(self) -> EditMethod | EachApart:
        return self._method if self._each is None else self._each

    @property
    def _side_by_side(self) -> SideBySide | EachApart:
        learner = self._now
        assert isinstance(learner, SideBySide | EachApart)
        return learner
