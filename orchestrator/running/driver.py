"""One driver's loop: claims free trials, runs them, and waits for those of other drivers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from orchestrator.planning.cell import Cell, Remembered
from orchestrator.planning.searches import Search, spec_for
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.running.results import Results, Shown
from orchestrator.settings.models import SweepConfig
from orchestrator.store.leases import Leases, summary
from orchestrator.store.rows import Outcome
from orchestrator.store.settled import Settled
from orchestrator.terminal.board import announce

MOST_AT_A_TIME = 500  # trials per Tuner: the driver's memory grows with the trials that one knows
POLL_SECONDS = 2.0  # while other drivers hold all that is left


class Runner(Protocol):
    """Runs trials and tells a listener what happens to them; see `tuning.Tuning`."""

    def run(self, cells: Sequence[Cell], scheduler: str, past: Sequence[Mapping[str, Any]]) -> None:
        """Run trials of a grid; on return each has ended, was lost or was misplaced."""

    def search(
        self,
        search: Search,
        seed: int,
        num_trials: int,
        to_config: Callable[[Mapping[str, Any]], dict[str, Any] | Remembered],
        typical: Cell,
    ) -> None:
        """Run what Optuna suggests."""

    def close(self) -> None:
        """Stop; no trial runs after this."""


class Report(Protocol):
    """The page of a store, as far as a driver ends it; see `live_report.LiveReport`."""

    def close(self) -> str:
        """Write it for the last time; why that could not be done, else ""."""


class Sweep:
    """One driver's run of a sweep; `results` holds what is known about its trials."""

    def __init__(
        self,
        results: Results,
        settled: Settled,
        leases: Leases,
        *,
        resolved: Callable[[TrialSpec], Cell],
        start: Callable[[Results], Runner],
        board: Callable[[int], AbstractContextManager[Shown]],
        scheduler: str = "fifo",
        report: Report | None = None,
        at_a_time: int = MOST_AT_A_TIME,
        wait: Callable[[], None] = lambda: time.sleep(POLL_SECONDS),
    ) -> None:
        """Nothing runs yet.

        Args:
            results: Told of everything.
            settled: The trials that need not run.
            leases: The trials that other drivers, and this one, run now.
            resolved: A specification -> its cell; raises EditingError if it cannot work.
            start: Makes the runner, once there is something to run.
            board: Opens one for so many trials.
            scheduler: fifo, asha or median, for the trials of a grid.
            report: Has its last page written when all is over; None: there is none.
            at_a_time: Most trials that are claimed, and run, together.
            wait: Called between two looks at what other drivers have done.
        """
        self.results = results
        self.cell = resolved
        self._settled = settled
        self._leases = leases
        self._start = start
        self._board = board
        self._scheduler = scheduler
        self._report = report
        self._at_a_time = at_a_time
        self._wait = wait
        self._runner: Runner | None = None

    @property
    def outcome(self) -> Outcome:
        """The outcome of the sweep so far."""
        return self.results.outcome

    def settle(self, cells: Sequence[Cell], scheduler: str | None = None) -> None:
        """Run the cells of a grid that are not settled, and wait for those that others run.

        `scheduler` takes the place of the sweep's own.
        """
        self.results.may_repeat = True
        self.results.cells |= {cell.key: cell for cell in cells}
        todo = {cell.key: cell for cell in cells if not self._is_settled(cell)}
        if not todo:
            return
        is_told = False
        with self._board(len(todo)) as self.results.board:
            while todo:
                if chosen := self._claimed(todo):
                    todo |= self._run(chosen, scheduler or self._scheduler)
                elif todo:
                    if not is_told:
                        self._tell_who_holds(todo)
                        is_told = True
                    self._wait()

    def suggest(self, config: SweepConfig, search: Search, seed: int) -> list[str]:
        """Let Optuna choose trials of a search, until there are `num_trials` of this seed.

        Two drivers that search at the same time may run a trial twice: nobody knows beforehand
        which trials Optuna will want.

        Returns:
            Fingerprints of the trials that it chose.
        """
        asked: dict[str, None] = {}
        num_trials = config.num_trials or 0

        def to_config(values: Mapping[str, Any]) -> dict[str, Any] | Remembered:
            cell = self.cell(spec_for(config, {**search.fixed, **values}, seed))
            scores = self.results.scores
            asked[cell.key] = None
            if cell.key in self.results.cells:
                return scores.remembered(cell.key)
            self.results.cells[cell.key] = cell
            if self._is_settled(cell):
                return scores.remembered(cell.key, self._settled.rungs([cell.key]))
            return {"trial_key": cell.key, "spec": cell.spec.to_dict()}

        self.results.may_repeat = False
        self._leases.claim((), 0, set)  # other drivers see that this one lives
        typical = self.cell(spec_for(config, search.middle, seed))
        with self._board(num_trials) as self.results.board:
            self._started().search(search, seed, num_trials, to_config, typical)
        return [*asked]

    def close(self, say: Callable[[str | Callable[[], str]], None]) -> None:
        """Stop Ray, give the leases back and close the results; `say` is told of each step."""
        if self._runner is not None:
            say("stopping Ray")
            self._runner.close()
        self._leases.close()
        self.results.close(say)
        if self._report is not None:
            say("writing the report")
            if why := self._report.close():
                announce([f"the report could not be written: {why}"])

    def _is_settled(self, cell: Cell) -> bool:
        """Whether some driver has ended a trial; counts it if it was another driver."""
        if self._settled.ended_here(cell.key):
            return True
        if not self._settled.ended_before(cell.key):
            return False
        self.results.known(cell)
        return True

    def _claimed(self, todo: dict[str, Cell]) -> list[Cell]:
        """Removes from `todo` what others have ended, and claims and returns what to run next."""
        ended: set[str] = set()

        def look() -> set[str]:
            ended.update(self._settled.ended_elsewhere())
            return ended

        keys = self._leases.claim(todo, self._at_a_time, look)
        for key in ended & todo.keys():
            self.results.known(todo.pop(key))
        return [todo.pop(key) for key in keys]

    def _run(self, cells: Sequence[Cell], scheduler: str) -> dict[str, Cell]:
        """Run the claimed trials; returns those that have to run again."""
        past = self._settled.rungs(self.results.cells) + self.results.rungs
        self._started().run(cells, scheduler, past)
        repeated = self.results.take_repeated()
        self._leases.release([cell.key for cell in cells])
        return repeated

    def _started(self) -> Runner:
        if self._runner is None:
            self.results.on_stage("starting Ray")
            self._runner = self._start(self.results)
        return self._runner

    def _tell_who_holds(self, todo: Mapping[str, Cell]) -> None:
        holders = self._leases.others()
        announce(summary([holders[key] for key in todo if key in holders]))
        self.results.on_stage("waiting for the trials of other drivers")
