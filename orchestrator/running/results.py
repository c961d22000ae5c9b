"""Passes each result on: to the ledger first, then to MLflow, then to the board.

The ledger is the truth. A row that it cannot take ends the sweep; the others can be told again.
Rows that come close together are committed together, and nothing is told of them before: to wait
for the disk takes milliseconds, in which hundreds of GPUs would wait for the driver.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from orchestrator.errors import UsageError
from orchestrator.planning.cell import Cell
from orchestrator.running.scores import Scores
from orchestrator.settings.models import SweepConfig
from orchestrator.store.copies import Copies
from orchestrator.store.ledger_rows import CheckpointRow, EndRow
from orchestrator.store.rows import (
    MAX_RETRIES,
    LabelledRow,
    Outcome,
    Row,
    end_row,
    labelled,
)
from orchestrator.store.settled import Settled
from orchestrator.terminal.board import announce

COMMIT_SECONDS = 0.05  # that a row waits at most for others


class Segment(Protocol):
    """The ledger, as far as a driver writes it; see `ledger.Ledger`."""

    def append(self, row: EndRow | CheckpointRow) -> None:
        """Add one row."""

    def commit(self) -> None:
        """Wait until the disk has every row that was added."""

    def close(self) -> None:
        """Nothing is written any more."""


class Tracking(Protocol):
    """MLflow, as far as a driver writes it; see `apart.TrackerProcess`."""

    failures: list[str]

    @property
    def experiment_id(self) -> str:
        """Known after `close`."""

    @property
    def num_unsent(self) -> int:
        """Number of rows that are not in MLflow yet."""

    def log(self, row: LabelledRow) -> None:
        """Take one end row; returns at once."""

    def close(self) -> None:
        """Wait until all rows are written or given up."""


class Shown(Protocol):
    """The board, as far as a driver writes on it; see `board.Board`."""

    def stage(self, stage: str) -> None:
        """What the driver does while no trial runs."""

    def ended(self, row: LabelledRow) -> None:
        """One trial settled."""


class Results:
    """Records what happens to one driver's trials; the `events.Listener` of Ray's side.

    The first end of a trial counts: Ray may lose an actor that has already reported its end.

    Attributes:
        cells: Every trial that this driver was asked for, by fingerprint.
        rungs: Rungs reached by trials of this driver, for a scheduler to compare with.
        scores: Scores that a search compares.
        outcome: The outcome of the sweep so far.
        board: Shows the progress; None while nothing runs.
        may_repeat: Whether a lost trial runs again; a search cannot ask for the same trial again.
    """

    def __init__(
        self,
        config: SweepConfig,
        settled: Settled,
        ledger: Segment,
        tracker: Tracking,
        provenance: Callable[[], Mapping[str, str]],
        source_hash: str,
        copies: Copies | None = None,
        say: Callable[[Iterable[str]], None] = announce,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing has happened yet.

        Args:
            config: The sweep.
            settled: Is told of every trial that ends here.
            ledger: Takes every row first.
            tracker: Takes every end row after the ledger.
            provenance: Returns this driver's provenance; called when the first trial ends.
            source_hash: Hash of the trainables' source; results of other source are counted.
            copies: Copied from the ledger when it is closed.
            say: Shows lines to the user.
            clock: Seconds, by which rows wait for others.
        """
        self._config = config
        self._settled = settled
        self._ledger = ledger
        self._tracker = tracker
        self._provenance = provenance
        self._source_hash = source_hash
        self._copies = copies
        self._say = say
        self._clock = clock
        self._since: float | None = None  # when the first row was added that is not committed
        self._untold: list[tuple[EndRow, LabelledRow]] = []  # ends among them
        self._told: set[str] = set()  # what is said once, however often it happens
        self._checkpoints: dict[str, list[Row]] = {}  # of trials that run
        self._times_lost: Counter[str] = Counter()
        self._to_repeat: list[str] = []
        self.cells: dict[str, Cell] = {}
        self.rungs: list[Row] = []
        self.scores = Scores(config.scheduler.compared)
        self.outcome = Outcome()
        self.board: Shown | None = None
        self.may_repeat = True

    def known(self, cell: Cell) -> None:
        """Count a trial that need not run, as another driver or an earlier one has ended it."""
        end = self._settled.end(cell.key)
        self.outcome.num_settled_before += 1
        self.outcome.num_other_source += end.provenance.get("source_hash") != self._source_hash
        if end.status in ("failed", "diverged"):
            self.outcome.failures.append(end)
        self.scores.note(end)
        self._tracker.log(labelled(end, cell.spec, self._config))

    def take_repeated(self) -> dict[str, Cell]:
        """Returns the trials that have to run again, and forgets them."""
        taken = {key: self.cells[key] for key in self._to_repeat}
        self._to_repeat.clear()
        return taken

    def close(self, say: Callable[[str | Callable[[], str]], None]) -> None:
        """Wait for MLflow, close the ledger and copy it; `say` is told of each step.

        Raises:
            LedgerError: If the disk does not take what was written last.
        """
        if self._since is not None:
            self._commit()
        say(lambda: f"writing results into MLflow, {self._tracker.num_unsent} left")
        self._tracker.close()
        self.outcome.experiment_id = self._tracker.experiment_id
        self.outcome.num_unsent = self._tracker.num_unsent
        self.outcome.tracking_failures = self._tracker.failures
        self._ledger.close()
        if self._copies is not None:
            say("sending copies")
            self.outcome.copies_failure = self._copies.close()

    def on_stage(self, stage: str) -> None:
        """What goes on while no trial runs."""
        if self.board is not None:
            self.board.stage(stage)

    def on_step(self, *, has_moved: bool) -> None:
        """Ray was asked for news once more; `has_moved`: there was some, and more may wait.

        Raises:
            LedgerError: If the disk does not take what was written last.
        """
        if self._since is None:
            return
        if not has_moved or self._clock() - self._since >= COMMIT_SECONDS:
            self._commit()

    def on_result(self, key: str, row: Row) -> None:
        """One row of a trial: a rung, or its end."""
        if what := row.get("unrestored"):
            self._tell_once(
                f"method={self.cells[key].spec.method['name']} did not restore the backbone "
                f"({what}); what follows runs in a new process"
            )
        if row.get("gpus_unused"):
            self._tell_once(
                f"node {row['hostname']}: Ray gave trials a GPU that torch cannot use there "
                "(a CPU build of torch, or no driver): they run on the CPU"
            )
        if why := row.get("pack_given_up"):
            self._tell_once(
                f"node {row['hostname']}: trials cannot be trained together ({why}); its process "
                "runs them one by one"
            )
        if row.get("status") != "running":
            self._end(key, row)
            return
        self._checkpoints.setdefault(key, []).append(row)
        self._append(CheckpointRow(key, row, time.time()))
        if "compared" in row:
            rung = {name: row[name] for name in ("progress", "compared")}
            self.rungs.append({"trial_key": key, **rung})

    def on_stopped(self, key: str, reason: str) -> None:
        """The scheduler stopped a trial; its last rung is its result."""
        if key in self._checkpoints:
            self._end(key, {**self._checkpoints[key][-1], "status": "stopped"}, reason)

    def on_lost(self, key: str, error: str) -> None:
        """A trial did not begin because its actor was lost; it is repeated as often as others are.

        A search goes on with other trials: it cannot ask for the same one again.
        """
        self._times_lost[key] += 1
        if self._times_lost[key] > MAX_RETRIES or not self.may_repeat:
            self.on_error(key, error)
        else:
            self._repeat(key)

    def on_misplaced(self, key: str, problem: str) -> None:
        """A trial was given to a node that cannot work on the sweep; it runs elsewhere.

        Raises:
            UsageError: In a search, which cannot ask for the same trial again.
        """
        if not self.may_repeat:
            raise UsageError(f"the cluster cannot run this search: {problem}")
        self._tell_once(f"{problem}; what it was given runs elsewhere")
        self._repeat(key)

    def on_error(self, key: str, error: str) -> None:
        """A trial's actor was lost more often than it is retried."""
        self._end(key, {"status": "failed", "error": error})

    def _repeat(self, key: str) -> None:
        if not self._settled.ended_here(key):
            self._to_repeat.append(key)

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._say([line])
            self._told.add(line)

    def _end(self, key: str, row: Row, stop_reason: str | None = None) -> None:
        """Write a trial's end row, unless it has one; it is told of when it is committed."""
        if self._settled.ended_here(key):
            return
        cell = self.cells[key]
        end = end_row(
            cell,
            row,
            stop_reason=stop_reason,
            checkpoints=self._checkpoints.pop(key, []),
            provenance=self._provenance(),
        )
        self._append(end)
        self._settled.add(key)
        self.scores.note(end)
        self._untold.append((end, labelled(end, cell.spec, self._config)))

    def _append(self, row: EndRow | CheckpointRow) -> None:
        self._ledger.append(row)
        if self._since is None:
            self._since = self._clock()

    def _commit(self) -> None:
        """Waits for the disk, then tells of the ends that it has; if it fails, nobody is told."""
        told, self._untold, self._since = self._untold, [], None
        self._ledger.commit()
        for end, row in told:
            self.outcome.counts[end.status] = self.outcome.counts.get(end.status, 0) + 1
            if end.status in ("failed", "diverged"):
                self.outcome.failures.append(end)
            self._tracker.log(row)
            if self.board is not None:
                self.board.ended(row)
