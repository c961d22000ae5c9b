"""Edits of one trial that are each rolled back, learned side by side: a method for each.

It is for methods that could not do so by themselves, but whose steps may be taken together.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

from trainables.backbones.forward.passage import JointPass
from trainables.interfaces import EditBatch, EditMethod, EditReport, State
from trainables.optimise import Optimisation
from trainables.pulse import pulse
from trainables.trials.packs.lockstep import Lockstep, optimisation_of

# Edits at a time, as long as what they train, with gradients and two moments, takes no more bytes.
_MOST, _MOST_BYTES, _COPIES = 16, 2**28, 4


def most_apart(method: EditMethod) -> int:
    """Edits that may be learned at a time, as a batch shows that `method` has begun; 1: alone."""
    optimisation = optimisation_of(method)
    if optimisation is None:
        return 1
    return max(1, min(_MOST, _MOST_BYTES // (_COPIES * optimisation.trained_bytes)))


class EachApart:
    """Single edits, each with a method of its own, which no other edit has seen.

    Attributes:
        taken: The method that answers.
    """

    taken: EditMethod

    def __init__(self, make: Callable[[], EditMethod]) -> None:
        """`make` builds a prepared method on modules of its own, while the backbone is pristine."""
        self._make = make
        self._methods: list[EditMethod] = []
        self._passing = JointPass()

    def begin_each(self, batch: EditBatch) -> None:
        """Set up the optimisation of every edit by itself."""
        self.make_ready(len(batch))
        for number, method in enumerate(self._methods):
            method.begin(batch.single(number))

    def make_ready(self, num_edits: int) -> None:
        """Make the methods of so many edits, those that are not made yet."""
        for _ in range(num_edits - len(self._methods)):
            self._add()

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps of each; True when all are done.

        Raises:
            EditDiverged: If a loss is not finite.
        """
        running = [_optimisation(method) for method in self._methods]
        lockstep = Lockstep(running, self._passing)
        for _ in range(max_steps):
            if all(each.is_done for each in running):
                break
            lockstep.step()
            if lockstep.failed:
                raise lockstep.failed[min(lockstep.failed)]
            pulse().step(mean(each.last_loss or 0.0 for each in running))
        return all(each.is_done for each in running)

    def finish_each(self) -> list[EditReport]:
        """Commit the edits, when all are done; reports in their order."""
        return [method.finish() for method in self._methods]

    def take(self, number: int) -> None:
        """From now on answer as with edit `number` alone, done or not."""
        self.taken = self._methods[number]

    def state(self) -> State:
        """What the edits need to go on."""
        state = State(values={"num_edits": len(self._methods)})
        for number, method in enumerate(self._methods):
            state.nest(str(number), method.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`, before any edit has begun."""
        for number in range(int(str(state.values["num_edits"]))):
            self._add().load(state.inner(str(number)))

    def remove(self) -> None:
        """Forget all edits."""
        for method in self._methods:
            method.remove()

    def _add(self) -> EditMethod:
        self._methods.append(self._make())
        self.taken = self._methods[0]
        return self._methods[-1]


def _optimisation(method: EditMethod) -> Optimisation:
    found = optimisation_of(method)
    assert found is not None, "a method begins alike for one edit and for another"
    return found
