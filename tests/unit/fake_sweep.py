"""One driver on a real store, with a made-up Ray, MLflow and board: a script says what happens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.planning import plan
from orchestrator.planning.cell import Cell, Remembered
from orchestrator.running.driver import Sweep
from orchestrator.running.results import Results
from orchestrator.settings import loading as config
from orchestrator.store.leases import Leases
from orchestrator.store.ledger import Ledger, Others
from orchestrator.store.rows import LabelledRow, Row
from orchestrator.store.settled import Options, Settled
from tests.unit.ended_trials import cell

MOST_TRIALS = 6
RATES = [1e-4 * (number + 1) for number in range(MOST_TRIALS)]
# What may become of one try of a trial. The first three are no end.
SETBACKS = ("lost", "silent", "misplaced")
ENDS = ("finished", "failed", "diverged", "stopped", "error")
AFTERWARDS = ("then lost", "then error", "then misplaced")  # Ray's word on a trial that has ended


class Killed(BaseException):
    """The process is gone: nothing behind this line is run, no `finally` of the driver's."""


@cache
def grid() -> plan.Plan:
    """As many trials as a test can ask for."""
    typed = ["ablation=smoke", "axes.method=[ft_m]", f"axes.method.edit_lr={RATES}", "seeds=[0]"]
    return plan.expand(config.load(typed))


@cache
def cells() -> tuple[Cell, ...]:
    """The grid's."""
    return tuple(cell(spec) for spec in grid().trials)


@dataclass(frozen=True)
class Fate:
    """What becomes of a trial: its setbacks, one a try, and then its end."""

    end: str = "finished"
    setbacks: tuple[str, ...] = ()
    num_rungs: int = 1
    score: float = 0.5
    afterwards: str = ""


class FakeTuning:
    """Tells a listener what `fates` say of each trial; `between` is called before every event."""

    def __init__(
        self, listener: Results, fates: Mapping[str, Fate], between: Callable[[], None]
    ) -> None:
        self._listener, self._fates, self.between = listener, fates, between
        self._tries: dict[str, int] = {}
        self.started: list[str] = []  # one entry for each try
        self.schedulers: list[str] = []
        self.past: list[list[Row]] = []
        self.answers: list[dict[str, Any] | Remembered] = []  # to what the search suggested
        self.suggested: list[Mapping[str, Any]] = []
        self.is_closed = False

    def run(self, cells: Sequence[Cell], scheduler: str, past: Sequence[Row]) -> None:
        self.schedulers.append(scheduler)
        self.past.append(list(past))
        silent = [each.key for each in cells if not self._heard(each.key)]
        self._listener.on_step(has_moved=False)
        for key in silent:  # at the end of a Tuner, as `Tuning` does
            self._listener.on_lost(key, "Ray lost it without a word")

    def search(
        self,
        search: object,
        seed: int,
        num_trials: int,
        to_config: Callable[[Mapping[str, Any]], dict[str, Any] | Remembered],
        typical: Cell,
    ) -> None:
        for values in self.suggested[:num_trials]:
            answer = to_config(values)
            self.answers.append(answer)
            if isinstance(answer, dict) and not self._heard(answer["trial_key"]):
                self._listener.on_lost(answer["trial_key"], "Ray lost it without a word")
        self._listener.on_step(has_moved=False)

    def close(self) -> None:
        self.is_closed = True

    def _heard(self, key: str) -> bool:
        """One try of a trial; False where nothing is heard of its end."""
        self.between()
        self.started.append(key)
        fate, number = self._fates.get(key, Fate()), self._tries.get(key, 0)
        self._tries[key] = number + 1
        if number < len(fate.setbacks):
            return self._set_back(key, fate.setbacks[number])
        for rung in range(1, fate.num_rungs + 1):
            self.between()
            self._listener.on_result(key, row("running", rung, fate.score))
        self.between()
        if fate.end == "stopped":
            self._listener.on_stopped(key, "asha")
        elif fate.end == "error":
            self._listener.on_error(key, "the worker process died")
        else:
            self._listener.on_result(key, row(fate.end, fate.num_rungs + 1, fate.score))
        self._listener.on_step(has_moved=True)
        self._say_afterwards(key, fate.afterwards)
        return True

    def _set_back(self, key: str, what: str) -> bool:
        if what == "misplaced":
            self._listener.on_misplaced(key, "node n: too old")
        elif what == "lost":
            self._listener.on_lost(key, "the worker process died")
        return what != "silent"

    def _say_afterwards(self, key: str, what: str) -> None:
        if what == "then lost":
            self._listener.on_lost(key, "the worker process died")
        elif what == "then error":
            self._listener.on_error(key, "the worker process died")
        elif what == "then misplaced":
            self._listener.on_misplaced(key, "node n: too old")


def row(status: str, rung: int, score: float) -> Row:
    """What a trial reports at a rung, or at its end."""
    is_over = status != "running"
    told = {"status": status, "rung": rung, "progress": 1.0 if is_over else rung / 4}
    error = {"error": "loss is NaN"} if status in ("failed", "diverged") else {}
    compared = {} if error else {"compared": score}
    return {**told, **compared, **error, "done": is_over, "seconds": 1.0}


@dataclass
class Witness:
    """MLflow and the board: looks, whenever it is told of an end, whether the disk has it."""

    store: Path
    ledger: Ledger
    failures: list[str] = field(default_factory=list)
    experiment_id: str = "7"
    num_unsent: int = 0
    logged: list[str] = field(default_factory=list)  # row ids
    shown: list[str] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)  # of the boards that were opened
    stages: list[str] = field(default_factory=list)
    is_closed: bool = False

    def log(self, row: LabelledRow) -> None:
        assert Ledger.read(self.store).ends[row.end.fingerprint].row_id == row.end.row_id
        is_own = row.end.row_id in self.ledger.path.read_text()
        assert self.ledger.is_committed or not is_own
        self.logged.append(row.end.row_id)

    def close(self) -> None:
        self.is_closed = True

    @contextmanager
    def board(self, total: int) -> Iterator[Witness]:
        self.totals.append(total)
        yield self

    def stage(self, stage: str) -> None:
        self.stages.append(stage)

    def ended(self, row: LabelledRow) -> None:
        assert self.logged[-1] == row.end.row_id
        self.shown.append(row.end.row_id)


class Driver:
    """A sweep on a store, and what a test can look at."""

    def __init__(
        self,
        store: Path,
        fates: Mapping[str, Fate] | None = None,
        options: Options | None = None,
        between: Callable[[], None] = lambda: None,
        wait: Callable[[], None] | None = None,
        source_hash: str = "source",
        ledger: Ledger | None = None,
        at_a_time: int = MOST_TRIALS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        history = Ledger.read(store)
        self.ledger = ledger or Ledger.open(store, history.last_time)
        self.leases = Leases(self.ledger.path)
        metric = grid().config.scheduler.metric
        settled = Settled(history, Others(store, self.ledger.path), options or Options(), metric)
        self.witness = Witness(store, self.ledger)
        self.said: list[str] = []
        self.results = Results(
            grid().config,
            settled,
            self.ledger,
            self.witness,
            provenance=lambda: {"source_hash": source_hash, "commit": "c"},
            source_hash=source_hash,
            say=self.said.extend,
            clock=clock,
        )
        self.tuning = FakeTuning(self.results, fates or {}, between)
        self.num_starts = 0
        self.sweep = Sweep(
            self.results,
            settled,
            self.leases,
            resolved=cell,
            start=self._started,
            board=self.witness.board,
            at_a_time=at_a_time,
            wait=wait or _nobody_else,
        )

    def _started(self, listener: Results) -> FakeTuning:
        self.num_starts += 1
        return self.tuning

    def settle(self, asked: Sequence[Cell]) -> None:
        """From the beginning to the end, as the command does it."""
        try:
            self.sweep.settle(asked)
        finally:
            self.close()

    def close(self) -> None:
        self.sweep.close(lambda stage: None)

    def die(self) -> None:
        """What is left of a process that was killed: no lease that counts, and its segment."""
        self.leases.close()


def _nobody_else() -> None:
    raise AssertionError("a driver that is alone waits for another")


def end_rows(store: Path) -> list[Row]:
    """Every end row of a store, also where a later one takes the place of it."""
    found = []
    for segment in sorted((store / "ledger").glob("*.jsonl")):
        found += list(_rows(segment))
    return [each for each in found if each["event"] == "end"]


def _rows(segment: Path) -> Iterator[Row]:
    for line in segment.read_text().splitlines():
        yield json.loads(line)


class Turns:
    """Lets one of several drivers run at a time, each in a thread; who is next was drawn before."""

    def __init__(self, draws: Sequence[int]) -> None:
        self._draws = iter(draws)
        self._left: list[int] = []  # who has not ended
        self._now = 0
        self._lock = threading.Condition()
        self._errors: list[BaseException] = []

    def pass_on(self, me: int) -> None:
        """Whoever was drawn goes on; comes back when that is `me`."""
        with self._lock:
            self._choose()
            self._lock.wait_for(lambda: self._now == me)

    def run(self, works: Sequence[Callable[[], None]]) -> None:
        """All of them to their end; raises what one of them raised."""
        self._left = list(range(len(works)))
        threads = [
            threading.Thread(target=self._work, args=(number, work), daemon=True)
            for number, work in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self, me: int, work: Callable[[], None]) -> None:
        with self._lock:
            self._lock.wait_for(lambda: self._now == me)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            self._errors.append(error)
        with self._lock:
            self._left.remove(me)
            if self._left:
                self._choose()

    def _choose(self) -> None:
        """A drawn one; when all draws are used up, one after the other, so that each comes on."""
        after = [each for each in self._left if each > self._now] or self._left
        drawn = next(self._draws, None)
        self._now = after[0] if drawn is None else self._left[drawn % len(self._left)]
        self._lock.notify_all()
