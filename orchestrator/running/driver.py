"""One driver's run: which trials are left, what runs them, and what becomes of a result.

The ledger is the truth: a result is appended there first, then handed to MLflow and to the board.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.planning.cell import Cell, Resolved, Settled
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.plan import Plan, TrialSpec, spec_for
from orchestrator.running.cluster import set_environment
from orchestrator.running.interruption import Interruption
from orchestrator.settings.models import SweepConfig
from orchestrator.store.copies import Copies
from orchestrator.store.leases import Leases, summary
from orchestrator.store.ledger import Ledger, Others
from orchestrator.store.ledger_rows import CheckpointRow, EndRow
from orchestrator.store.provenance import ROOT, keep_packages, provenance, source_hash
from orchestrator.store.rows import MAX_RETRIES, Outcome, Row, end_row, labelled
from orchestrator.store.settled import Options
from orchestrator.terminal.board import Board, announce
from orchestrator.terminal.running_trials import SCRATCH, pulse_folder
from orchestrator.tracking.tracker import Tracker
from trainables.spec import TrialSpec as ToldSpec
from trainables.trials.validation import Validator

if TYPE_CHECKING:
    from orchestrator.running.tuning import Tuning

MOST_AT_A_TIME = 500  # trials per Tuner: the driver's memory grows with the trials that one knows
POLL_SECONDS = 2.0  # while other drivers hold all that is left


def resolved_cell(validator: Validator, spec: TrialSpec) -> Cell:
    """A specification with its fingerprint.

    Raises:
        EditingError: If it cannot work.
    """
    resolved = Resolved(**validator.validate(ToldSpec.parse(spec.to_dict())))
    return Cell(fingerprint(spec, resolved.identity), spec, resolved)


class Sweep:
    """One driver's run: what is settled, what is left, and where results go."""

    def __init__(
        self,
        config: SweepConfig,
        options: Options,
        cache: Path,
        validator: Validator,
        interruption: Interruption,
    ) -> None:
        """Open the store; nothing runs yet.

        Raises:
            LedgerError: If the store cannot be written or read.
            UsageError: If its copies cannot be read.
        """
        self._config = config
        self._options = options
        self._cache = cache
        self._validator = validator
        self._interruption = interruption
        self._store = Path(config.store).resolve()
        self._copies = Copies(self._store, config.copies) if config.copies else None
        if self._copies is not None:
            self._copies.fetch()
        self._history = Ledger.read(self._store)  # of others, as of when it was last looked at
        self._rows_before = {key: end.row_id for key, end in self._history.ends.items()}
        self._ledger = Ledger.open(self._store, self._history.last_time)
        self._others = Others(self._store, self._ledger.path)
        self._leases = Leases(self._ledger.path)
        self._tuning: Tuning | None = None
        self._board: Board | None = None
        self._mine: set[str] = set()  # trials that this driver has ended
        self._compared = config.scheduler.compared
        self._is_grid = True
        self._times_lost: Counter[str] = Counter()
        self._to_repeat: set[str] = set()
        self._told: set[str] = set()  # what is said once, however often it happens
        self._checkpoints: dict[str, list[Row]] = {}
        self._rungs: list[Row] = []  # what a scheduler compares, of trials that this driver runs
        self._source_hash = source_hash(ROOT / "trainables")
        self._provenance: dict[str, str] = {}  # of what this driver runs, once it runs something
        self._tracker = Tracker(self._store, config.ablation, config.question, config.mlflow)
        self.cells: dict[str, Cell] = {}
        self.values: dict[str, float] = {}  # what a search compares, at the end or the last rung
        self._stopped_at: dict[str, int] = {}  # rungs behind which a scheduler ended trials
        self.finished: list[str] = []  # keys of `values` whose trial ran to its end
        self.outcome = Outcome()

    def cell(self, spec: TrialSpec) -> Cell:
        """As `resolved_cell`, with what was read and built so far."""
        return resolved_cell(self._validator, spec)

    def list_excluded(self) -> None:
        """Write which records of the user's files are left out, and why, into the store."""
        if self._validator.excluded:
            listed = self._store / "excluded.txt"
            listed.write_text("\n".join(self._validator.excluded) + "\n")
            announce([f"they are listed in {listed}"])

    def settle(self, cells: Sequence[Cell], scheduler: str | None = None) -> None:
        """Run those of a grid's cells that are not settled, and wait for what others run."""
        self._is_grid = True
        self.cells |= {cell.key: cell for cell in cells}
        todo = {cell.key: cell for cell in cells if not self._is_settled(cell)}
        if not todo:
            return
        name = scheduler or self._config.scheduler.name
        if self._options.complete_stopped:
            name = "fifo"
        is_told = False
        with Board(len(todo), pulses=self._pulses, compared=self._compared) as self._board:
            while todo:
                keys = self._leases.claim(todo, MOST_AT_A_TIME, self._ended_elsewhere)
                for key in self._ended_elsewhere() & todo.keys():
                    self._count_settled(todo.pop(key))
                if keys:
                    chosen = [todo.pop(key) for key in keys]
                    past = self._past_rungs(self.cells) + self._rungs
                    self._started().run(chosen, name, past)
                    todo |= {key: self.cells[key] for key in self._to_repeat}
                    self._to_repeat.clear()
                    self._leases.release(keys)
                elif todo:
                    if not is_told:
                        holders = self._leases.others()
                        announce(summary([holders[key] for key in todo if key in holders]))
                        is_told = True
                        self._board.stage("waiting for the trials of other drivers")
                    time.sleep(POLL_SECONDS)

    def suggest(self, plan: Plan, seed: int, num_trials: int) -> None:
        """Let Optuna choose trials of a search, until there are `num_trials` of this seed.

        Two drivers that search at the same time may run a trial twice: nobody knows beforehand
        which trials Optuna will want.
        """

        def to_config(values: Mapping[str, Any]) -> dict[str, Any] | Settled:
            cell = self.cell(spec_for(plan.config, values, seed))
            if cell.key in self.cells:
                return self._what_came_of(cell.key)
            self.cells[cell.key] = cell
            if self._is_settled(cell):
                return self._what_came_of(cell.key, self._past_rungs([cell.key]))
            return {"trial_key": cell.key, "spec": cell.spec.to_dict()}

        self._is_grid = False
        self._leases.claim((), 0, set)  # other drivers see that this one lives
        typical = self.cell(plan.typical[0])
        with Board(num_trials, pulses=self._pulses, compared=self._compared) as self._board:
            self._started().search(plan.space, seed, num_trials, to_config, typical)

    def _what_came_of(self, key: str, rungs: Sequence[Row] = ()) -> Settled:
        """What a search needs of a trial that has run, or runs; `rungs` are for the scheduler."""
        return Settled(self.values.get(key), rungs, self._stopped_at.get(key))

    def close(self, say: Callable[[str | Callable[[], str]], None]) -> None:
        """Stop Ray, give the leases back, wait for MLflow, close the ledger and copy it.

        `say` hears of each.
        """
        if self._tuning is not None:
            say("stopping Ray")
            self._tuning.close()
        self._leases.close()
        say(lambda: f"writing results into MLflow, {self._tracker.num_unsent} left")
        self._tracker.close()
        self.outcome.experiment_id = self._tracker.experiment_id
        self.outcome.num_unsent = self._tracker.num_unsent
        self.outcome.tracking_failures = self._tracker.failures
        self._ledger.close()
        if self._copies is not None:
            say("sending copies")
            self.outcome.copies_failure = self._copies.close()

    def _is_settled(self, cell: Cell) -> bool:
        """True, and told to MLflow, for a trial that some driver has ended."""
        if self._options.fresh or cell.key not in self._settled_keys:
            return False
        self._count_settled(cell)
        return True

    def _count_settled(self, cell: Cell) -> None:
        end = self._history.ends[cell.key]
        self.outcome.num_settled_before += 1
        self.outcome.num_other_source += end.provenance.get("source_hash") != self._source_hash
        if end.status in ("failed", "diverged"):
            self.outcome.failures.append(end)
        self._note_value(end)
        self._tracker.log(labelled(end, cell.spec, self._config))

    def _ended_elsewhere(self) -> set[str]:
        """Trials that other drivers have settled since this one began."""
        self._history = self._others.read()
        return {
            key
            for key in self._history.settled() - self._mine
            if self._rows_before.get(key) != self._history.ends[key].row_id
        }

    def _note_value(self, end: EndRow) -> None:
        """What a search compares, if the trial came so far and it can be compared."""
        key, value = end.fingerprint, end.metrics.get("compared")
        if value is None or not math.isfinite(value):
            return
        self.values[key] = float(value)
        if end.status == "finished":
            self.finished.append(key)
            self._stopped_at.pop(key, None)
        elif end.status == "stopped":
            self._stopped_at[key] = int(end.metrics["rung"])

    @cached_property
    def _settled_keys(self) -> frozenset[str]:
        return frozenset(
            self._history.settled(
                retry_failed=self._options.retry_failed,
                complete_stopped=self._options.complete_stopped,
            )
        )

    def _started(self) -> Tuning:
        if self._tuning is None:
            self.on_stage("starting Ray")
            self._provenance = provenance()
            keep_packages(self._store, self._provenance["packages"])
            if self._copies is not None:
                self._copies.begin(self._ledger.path)
            set_environment(self._config.cluster, self._config.niceness)
            from orchestrator.running.tuning import Tuning  # heavy: ray

            self._tuning = Tuning(
                self._config,
                self._cache,
                self._store,
                self._fresh_scratch(),
                self._interruption,
                listener=self,
            )
        return self._tuning

    @property
    def _pulses(self) -> Path:
        """Where this driver's trials say what they are doing."""
        return pulse_folder(self._store, self._ledger.path.stem)

    def _fresh_scratch(self) -> Path:
        """This driver's folder for Ray's own files; those of killed drivers are removed."""
        scratch = self._store / SCRATCH
        living = self._leases.drivers()
        for folder in scratch.iterdir() if scratch.is_dir() else ():
            if folder.name not in living:
                shutil.rmtree(folder, ignore_errors=True)
        return scratch / self._ledger.path.stem

    def _past_rungs(self, keys: Iterable[str]) -> list[Row]:
        """Rungs of other drivers, for a scheduler that compares with them."""
        return [
            {"trial_key": key, **row.values}
            for key in keys
            for row in self._history.checkpoints.get(key, [])
            if "compared" in row.values
        ]

    def on_stage(self, stage: str) -> None:
        """What goes on while no trial runs."""
        if self._board is not None:
            self._board.stage(stage)

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
        if row.get("status") != "running":
            self._end(key, row)
            return
        self._checkpoints.setdefault(key, []).append(row)
        self._ledger.append(CheckpointRow(key, row, time.time()))
        if "compared" in row:
            rung = {name: row[name] for name in ("progress", "compared")}
            self._rungs.append({"trial_key": key, **rung})

    def on_stopped(self, key: str, reason: str) -> None:
        """The scheduler ended a trial; its last rung is its result."""
        if key in self._checkpoints:
            self._end(key, {**self._checkpoints[key][-1], "status": "stopped"}, reason)

    def on_lost(self, key: str, error: str) -> None:
        """A trial that did not begin because its actor was lost; repeated as often as others are.

        A search goes on with other trials: it cannot ask for the same one again.
        """
        self._times_lost[key] += 1
        if self._times_lost[key] > MAX_RETRIES or not self._is_grid:
            self.on_error(key, error)
        else:
            self._to_repeat.add(key)

    def on_misplaced(self, key: str, problem: str) -> None:
        """A trial that was given to a node that cannot work on the sweep; it runs elsewhere.

        Raises:
            UsageError: In a search, which cannot ask for the same trial again.
        """
        if not self._is_grid:
            raise UsageError(f"the cluster cannot run this search: {problem}")
        self._tell_once(f"{problem}; what it was given runs elsewhere")
        self._to_repeat.add(key)

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            announce([line])
            self._told.add(line)

    def on_error(self, key: str, error: str) -> None:
        """A trial whose actor was lost more often than it is retried."""
        self._end(key, {"status": "failed", "error": error})

    def _end(self, key: str, row: Row, stop_reason: str | None = None) -> None:
        cell = self.cells[key]
        end = end_row(
            cell,
            row,
            stop_reason=stop_reason,
            checkpoints=self._checkpoints.pop(key, []),
            provenance=self._provenance,
        )
        self._ledger.append(end)
        self._mine.add(key)
        status = end.status
        self._note_value(end)
        self.outcome.counts[status] = self.outcome.counts.get(status, 0) + 1
        tracked = labelled(end, cell.spec, self._config)
        if status in ("failed", "diverged"):
            self.outcome.failures.append(end)
        self._tracker.log(tracked)
        if self._board is not None:
            self._board.ended(tracked)
