"""Trains several trials of one process together, from chunk to chunk of their steps.

Each has its own method, optimiser, stop rule, scores and state. What they share is one pass through
the frozen layers in every step; whatever else they do they do one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from trainables.backbones.forward.passage import JointPass
from trainables.optimise import Optimisation
from trainables.parallel.out_of_memory import is_out_of_memory
from trainables.pulse import Pulse, pulse
from trainables.trials.loop import EditLoop
from trainables.trials.packs.lockstep import Lockstep, optimisation_of

_TIMED = 2  # steps of each kind


@dataclass
class Spent:
    """Time of a process that went into one trial."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, other: Spent, share: float = 1.0) -> None:
        """Add a share of another amount."""
        self.seconds += share * other.seconds
        self.cpu_seconds += share * other.cpu_seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what the block takes."""
        begin, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin
            self.cpu_seconds += time.process_time() - cpu


@dataclass
class Member:
    """A trial of a pack.

    Attributes:
        key: Its fingerprint.
        loop: Of the trial.
        before: What went into it before it was a member, if not its own process gave it.
        spent: What went into it since.
        error: Why it goes no further; None: it does.
    """

    key: str
    loop: EditLoop
    before: Spent = field(default_factory=Spent)
    spent: Spent = field(default_factory=Spent)
    error: Exception | None = None


class Pack:
    """Trials that go on together; the first is the one that the process was given.

    What goes wrong with one stops that one alone.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Nothing is trained yet. No two of the loops may edit the same modules or tensors."""
        self.members = tuple(members)
        self._passing = JointPass()

    def train(self, until: float, after_chunk: Callable[[], None] = lambda: None) -> None:
        """Bring all members to `until` of their progress; `after_chunk` is called now and then.

        Raises:
            Exception: If there is no telling whose it is, or if memory runs out.
        """
        while members := [each for each in self.members if not self._is_over(each, until)]:
            self._go_on(members, until)
            after_chunk()

    def _is_over(self, member: Member, until: float) -> bool:
        return member.error is not None or member.loop.is_at(until)

    def _go_on(self, members: Sequence[Member], until: float) -> None:
        """A few steps of each, together where two or more can."""
        opened: list[tuple[Member, int, Optimisation]] = []
        for each in members:
            with self._apart(each):
                steps = each.loop.open(until)
                if (optimisation := optimisation_of(each.loop.method)) is not None:
                    opened.append((each, steps, optimisation))
                else:
                    each.loop.advance(until)
        if len(opened) == 1:
            with self._apart(opened[0][0]):
                opened[0][0].loop.advance(until)
        elif opened:
            self._step_together(opened)

    def _step_together(self, opened: Sequence[tuple[Member, int, Optimisation]]) -> None:
        lockstep = Lockstep([each for *_, each in opened], self._passing)
        steps = min(steps for _, steps, _ in opened)
        spent, first = Spent(), opened[0][2]
        with spent.running():
            for _ in range(steps):
                lockstep.step()
                pulse().step(first.last_loss or 0.0)  # who looks at the trial sees its own steps
            opened[0][0].loop.now()
        for number, (member, _, optimisation) in enumerate(opened):
            member.spent.add(spent, 1 / len(opened))
            member.error = lockstep.failed.get(number)
            if member.error is None:
                with self._apart(member):
                    seconds = spent.seconds / len(opened)
                    member.loop.shut(steps, is_done=optimisation.is_done, seconds=seconds)

    @contextmanager
    def _apart(self, member: Member) -> Iterator[None]:
        """Within the block one member alone works, whose time and error that is."""
        quiet = pulse() if member is self.members[0] else Pulse()
        with member.spent.running(), quiet.as_current():
            try:
                yield
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                member.error = error


def costs(loops: Sequence[EditLoop], until: float, *, by_clock: bool) -> tuple[float, float]:
    """Seconds of a step of all loops, packed, and of the same steps one loop after the other.

    It takes a few steps of each kind, after which the loops are of no use. The first is infinite
    where they cannot be packed.

    Args:
        loops: New ones, as for `Pack`.
        until: Of their progress, where they would be going.
        by_clock: Whether to look at the clock, as a GPU needs, and not at the processor.
    """
    found: list[Optimisation] = []
    if len(loops) < 2:
        return float("inf"), 0.0
    for loop in loops:
        loop.open(until)
        if (optimisation := optimisation_of(loop.method)) is None:
            return float("inf"), 0.0
        found.append(optimisation)
    passing = JointPass()
    packed, alone = [Lockstep(found, passing)], [Lockstep([each], passing) for each in found]
    # The first step of each kind makes masks and layouts.
    taken = [[_cost(loops[0], kind) for kind in (packed, alone)] for _ in range(1 + _TIMED)]
    index = int(not by_clock)
    return min(each[index] for each, _ in taken[1:]), min(each[index] for _, each in taken[1:])


def _cost(loop: EditLoop, each: Sequence[Lockstep]) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a step of each takes."""
    begin, cpu = loop.now(), time.process_time()
    for lockstep in each:
        lockstep.step()
    return loop.now() - begin, time.process_time() - cpu
