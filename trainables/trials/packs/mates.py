"""Trains further trials along with the one that a process was given, up to where it reports.

Their states are stored as those of interrupted trials are. The process that is given one of them
later, this one or another, goes on from there: often nothing is left to do but to score it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import get_num_threads

from trainables.interfaces import State
from trainables.parallel.out_of_memory import is_out_of_memory
from trainables.pulse import pulse
from trainables.spec import TrialSpec
from trainables.states import read_state, snapshot, write_state
from trainables.trials.loop import EditLoop
from trainables.trials.packs.claims import Claims
from trainables.trials.packs.pack import Member, Pack, Spent, costs
from trainables.trials.workbench import Workbench

# Packed steps that take a larger share of the others' time are not worth it.
_WORTH = 0.95
# A trial that is trained along is made twice, and its state is written and read.
_TWICE = 2
_REPORTED = "reported"  # in a state: the last rung that was reported, as a share of the work
_AHEAD = "ahead"  # in a state: the time that other processes gave to the trial


@dataclass(frozen=True)
class Packs:
    """Which trials may be trained together.

    Attributes:
        of: Of a trial, the keys of its pack, itself among them.
        claims: Folder in which processes say what they train ahead.
        measures: Whether a process finds out first if that is quicker.
    """

    of: Mapping[str, Sequence[str]]
    claims: Path
    measures: bool = False


class Mates:
    """What one process needs to train trials along with others."""

    def __init__(
        self,
        bench: Workbench,
        packs: Packs,
        plan: Mapping[str, Mapping[str, Any]],
        state_path: Callable[[str], Path],
    ) -> None:
        """Nothing is trained yet.

        Args:
            bench: Of this process.
            packs: Which trials may be trained together.
            plan: Specifications by key.
            state_path: Where the state of an unfinished trial is kept.
        """
        self._bench, self._packs, self._plan = bench, packs, plan
        self._state_path = state_path
        self._claims = Claims(packs.claims)
        self._is_given_up = False

    def begin(self, key: str) -> None:
        """Take the trial that this process was given; waits while another one trains it ahead."""

        def waits() -> None:
            pulse().stage("waiting for the process that trains it ahead")

        if key in self._packs.of:
            self._claims.begin(key, waits)

    def join(self, key: str, spec: TrialSpec, until: float) -> Along | None:
        """Those of a trial's pack that no process has yet and that are not at `until` either.

        The backbone must be pristine. None where there are none, or where that is no quicker.
        """
        pack = self._packs.of.get(key, ())
        if self._is_given_up or self._bench.limit_of(spec) is not None or len(pack) < 2:
            return None
        along = Along(self._state_path)
        try:
            free = along.claim(self._claims, [each for each in pack if each != key])
            specs = {each: TrialSpec.parse(self._plan[each]) for each in free}
            if specs and self._is_quicker([spec, *specs.values()], len(pack), until):
                for each, told in specs.items():
                    with _own_errors_left():
                        along.add(each, self._bench.loop(told, is_apart=True), until)
        except BaseException:
            along.close()
            raise
        if along.mates:
            return along
        along.close()
        return None

    def give_up(self) -> None:
        """Train nothing ahead any more in this process."""
        self._is_given_up = True

    def _is_quicker(self, specs: Sequence[TrialSpec], size: int, until: float) -> bool:
        """Whether packed steps of so many trials are, as measured once on such a machine."""
        if not self._packs.measures:
            return True

        def build() -> State:
            pulse().stage("measuring whether packed steps are quicker")
            loops: list[EditLoop] = []
            by_clock, making = self._bench.device != "cpu", Spent()
            try:
                with making.running():
                    for each in specs:
                        with _own_errors_left():
                            loops.append(self._bench.loop(each, is_apart=True))
                packed, alone = costs(loops, until, by_clock=by_clock)
                steps = min((loop.method.num_steps * loop.num_batches for loop in loops), default=0)
            finally:
                for loop in loops:
                    loop.close()
            made = making.seconds if by_clock else making.cpu_seconds
            saved = (alone - packed) * steps * until
            return State(values={"is_quicker": packed < _WORTH * alone and saved > _TWICE * made})

        what = _alike(specs[0], size)
        return bool(self._bench.found_once("packing", specs[0], what, build)["is_quicker"])


class Along:
    """Trials that are trained along with the one that a process was given."""

    def __init__(self, state_path: Callable[[str], Path]) -> None:
        """There are none yet."""
        self.mates: list[Member] = []
        self._state_path = state_path
        self._held = ExitStack()

    def claim(self, claims: Claims, keys: Sequence[str]) -> list[str]:
        """Those of some trials that this process may train, until `close`."""
        return self._held.enter_context(claims.claimed(keys))

    def add(self, key: str, loop: EditLoop, until: float) -> None:
        """Take a trial along, from its stored state on, unless it is there already."""
        member = Member(key, loop)
        state = read_state(self._state_path(key))
        if state is not None:
            member.loop.load(state)
            member.before = spent_ahead(state)
        if loop.is_at(until):
            loop.close()
        else:
            self.mates.append(member)

    def train(self, leader: Member, until: float, after_chunk: Callable[[], None]) -> None:
        """Bring all of them to `until`, and store those that do not fail.

        Raises:
            Exception: If there is no telling whose it is, or if memory runs out.
        """
        Pack([leader, *self.mates]).train(until, after_chunk)
        for path, state in self.states():
            write_state(path, snapshot(state))

    def states(self) -> list[tuple[Path, State]]:
        """What is to be stored of each, and where."""
        found = []
        for each in self.kept:
            spent = Spent()
            spent.add(each.before)
            spent.add(each.spent)
            state = with_reported(with_ahead(each.loop.state(), spent), 0.0)
            found.append((self._state_path(each.key), state))
        return found

    @property
    def kept(self) -> list[Member]:
        """Those that have not failed."""
        return [each for each in self.mates if each.error is None]

    def close(self) -> None:
        """Forget them all; other processes may take them."""
        for each in self.mates:
            with _own_errors_left():
                each.loop.close()
        self.mates.clear()
        self._held.close()


@contextmanager
def _own_errors_left() -> Iterator[None]:
    """What is wrong with a trial, its own process will say; want of memory concerns all."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise


def spent_ahead(state: State) -> Spent:
    """The time that was given to a trial before its own process took it, as its state says."""
    told: Any = state.values.get(_AHEAD, {})
    return Spent(**told)


def reported(state: State) -> float | None:
    """The last rung that a trial reported, which may be further; None if its state does not say."""
    told: Any = state.values.get(_REPORTED)
    return told


def with_reported(state: State, rung: float) -> State:
    """`state`, which says from now on that `rung` was reported last; 0: none was."""
    state.values[_REPORTED] = rung
    return state


def with_ahead(state: State, spent: Spent) -> State:
    """`state`, which says so from now on."""
    if spent != Spent():
        state.values[_AHEAD] = asdict(spent)
    return state


def _alike(spec: TrialSpec, size: int) -> dict[str, Any]:
    """What decides how long a step of a pack takes, beside the backbone."""
    return {
        "machine": [platform.machine(), platform.processor(), os.cpu_count(), get_num_threads()],
        "module": spec.method.module,
        "dataset": spec.dataset.name,
        "protocol": asdict(spec.protocol),
        "edit_layer": spec.method.settings["edit_layer"],
        "size": size,
    }
