"""One driver's run: which trials are left, what runs them, and what becomes of a result.

The ledger is the truth: a result is appended there first, then handed to MLflow and to the board.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.cluster import running_ray
from orchestrator.config import SweepConfig
from orchestrator.errors import LedgerError
from orchestrator.identity import fingerprint
from orchestrator.interruption import Interruption
from orchestrator.leases import Leases, summary
from orchestrator.ledger import Ledger
from orchestrator.placement import preflight, resources
from orchestrator.plan import Plan, TrialSpec, spec_for
from orchestrator.progress import Board, announce
from orchestrator.provenance import provenance
from orchestrator.rows import Cell, Options, Outcome, Resolved, Row, end_row, labelled, own_values
from orchestrator.scheduling import PlannedSearch, make_scheduler, tune_distribution
from orchestrator.tracking import Tracker
from trainables.trial import EditTrial, Resolver, Runtime

MAX_RETRIES = 2  # of a lost node or a killed actor; a defect would only repeat itself
MOST_AT_A_TIME = 500  # trials per Tuner: the driver's memory grows with the trials that one knows
POLL_SECONDS = 2.0  # while other drivers hold all that is left


def resolved_cell(resolver: Resolver, spec: TrialSpec) -> Cell:
    """A specification with its fingerprint.

    Raises:
        EditingError: If it cannot work.
    """
    resolved = Resolved(**resolver.resolve(spec.to_dict()))
    return Cell(fingerprint(spec, resolved.identity), spec, resolved)


class Sweep:
    """One driver's run: what is settled, what is left, and where results go."""

    def __init__(
        self,
        config: SweepConfig,
        options: Options,
        cache: Path,
        resolver: Resolver,
        interruption: Interruption,
    ) -> None:
        """Open the store; nothing runs yet.

        Raises:
            LedgerError: If the store cannot be written or read.
        """
        self._config = config
        self._options = options
        self._cache = cache
        self._resolver = resolver
        self._interruption = interruption
        self._store = Path(config.store).resolve()
        self._history = self._history_before = Ledger.read(self._store)
        self._ledger = Ledger.open(self._store)
        self._leases = Leases(self._ledger.path)
        self._ray = ExitStack()
        self._mine: set[str] = set()  # trials that this driver has ended
        self._checkpoints: dict[str, list[Row]] = {}
        self._provenance = provenance()
        self._tracker = Tracker(self._store, config.ablation, config.question)
        self._stopped: Mapping[str, str] = {}
        self.cells: dict[str, Cell] = {}
        self.values: dict[str, float] = {}  # what a search compares, at the end or the last rung
        self.finished: list[str] = []  # keys of `values` whose trial ran to its end
        self.outcome = Outcome(experiment_id=self._tracker.experiment_id)

    def cell(self, spec: TrialSpec) -> Cell:
        """As `resolved_cell`, with what was read and built so far."""
        return resolved_cell(self._resolver, spec)

    def list_excluded(self) -> None:
        """Write which records of the user's files are left out, and why, into the store."""
        if self._resolver.excluded:
            listed = self._store / "excluded.txt"
            listed.write_text("\n".join(self._resolver.excluded) + "\n")
            announce([f"they are listed in {listed}"])

    def settle(self, cells: Sequence[Cell], scheduler: str | None = None) -> None:
        """Run those of a grid's cells that are not settled, and wait for what others run."""
        self.cells |= {cell.key: cell for cell in cells}
        todo = {cell.key: cell for cell in cells if not self._is_settled(cell)}
        if not todo:
            return
        name = scheduler or self._config.scheduler.name
        if self._options.complete_stopped:
            name = "fifo"
        is_told = False
        with Board(len(todo)) as board:
            while todo:
                keys = self._leases.claim(todo, MOST_AT_A_TIME, self._ended_elsewhere)
                for key in self._ended_elsewhere() & todo.keys():
                    self._count_settled(todo.pop(key))
                if keys:
                    chosen = [todo.pop(key) for key in keys]
                    self._tune(chosen, {"param_space": _grid(chosen)}, name, board)
                    self._leases.release(keys)
                elif todo:
                    if not is_told:
                        holders = self._leases.others()
                        announce(summary([holders[key] for key in todo if key in holders]))
                        is_told = True
                    time.sleep(POLL_SECONDS)

    def suggest(self, plan: Plan, seed: int, num_trials: int) -> None:
        """Let Optuna choose trials of a search, until there are `num_trials` of this seed.

        Two drivers that search at the same time may run a trial twice: nobody knows beforehand
        which trials Optuna will want.
        """
        space = {key: tune_distribution(drawn) for key, drawn in plan.space.items()}

        def to_config(values: Mapping[str, Any]) -> dict[str, Any] | float | None:
            cell = self.cell(spec_for(plan.config, values, seed))
            if cell.key in self.cells or self._is_settled(cell):
                self.cells[cell.key] = cell
                return self.values.get(cell.key)
            self.cells[cell.key] = cell
            return {"trial_key": cell.key, "spec": cell.spec.to_dict()}

        searcher = PlannedSearch(space, seed, num_trials, to_config)
        first = self.cell(plan.typical[0])
        with Board(num_trials) as board:
            self._tune([first], {"search_alg": searcher}, self._config.scheduler.name, board)

    def close(self) -> None:
        """Stop Ray, give the leases back, wait for MLflow and close the ledger."""
        self._ray.close()
        self._leases.close()
        self._tracker.close()
        self.outcome.tracking_failures = self._tracker.failures
        self._ledger.close()

    def _is_settled(self, cell: Cell) -> bool:
        """True, and told to MLflow, for a trial that some driver has ended."""
        if self._options.fresh or cell.key not in self._settled_keys:
            return False
        self._count_settled(cell)
        return True

    def _count_settled(self, cell: Cell) -> None:
        end = self._history.ends[cell.key]
        self.outcome.num_settled_before += 1
        mine = self._provenance["source_hash"]
        self.outcome.num_other_source += end["provenance"]["source_hash"] != mine
        if end["status"] in ("failed", "diverged"):
            self.outcome.failures.append(end)
        self._note_value(end)
        if not self._tracker.has(cell.key, str(end["row_id"])):
            self._tracker.log(labelled(end, cell.spec, self._config))

    def _ended_elsewhere(self) -> set[str]:
        """Trials that other drivers have settled since this one began."""
        before, self._history = self._history_before, Ledger.read(self._store)
        return {
            key
            for key in self._history.settled() - self._mine
            if key not in before.ends
            or before.ends[key]["row_id"] != self._history.ends[key]["row_id"]
        }

    def _note_value(self, end: Row) -> None:
        """What a search compares, if the trial came so far."""
        key, value = str(end["fingerprint"]), end["metrics"].get("compared")
        if value is None:
            return
        self.values[key] = float(value)
        if end["status"] == "finished":
            self.finished.append(key)

    @cached_property
    def _settled_keys(self) -> frozenset[str]:
        return frozenset(
            self._history.settled(
                retry_failed=self._options.retry_failed,
                complete_stopped=self._options.complete_stopped,
            )
        )

    def _tune(
        self, cells: Sequence[Cell], what: Mapping[str, Any], scheduler_name: str, board: Board
    ) -> None:
        """Run trials; `what` holds the Tuner's param_space of a grid or the searcher."""
        chosen = self._config.scheduler
        scheduler, rungs = make_scheduler(
            scheduler_name,
            protected=[cell.key for cell in cells if _is_protected(cell.spec, chosen.protect)],
            grace=chosen.grace,
            reduction_factor=chosen.reduction_factor,
            past=self._past_rungs(),
        )
        self._stopped = getattr(scheduler, "stopped", {})
        is_compared = len(rungs) > 1 or "search_alg" in what
        runtime = Runtime(
            cache=self._cache,
            store=self._store,
            rungs=rungs,
            rung_score=chosen.metric if is_compared else None,
        )
        cluster = self._cluster
        for cell in cells:
            preflight(cell.spec, cluster)
        needs = [resources(cell.spec, cluster) for cell in cells]
        need = {kind: max(each[kind] for each in needs) for kind in ("cpu", "gpu")}
        specs = {} if "search_alg" in what else {cell.key: cell.spec.to_dict() for cell in cells}
        trainable = tune.with_parameters(EditTrial, plan=specs, runtime=runtime)
        workers = self._config.workers or max(1, int(cluster["CPU"] // need["cpu"]))
        self._fit(tune.with_resources(trainable, need), what, scheduler, workers, board)

    @cached_property
    def _cluster(self) -> Mapping[str, float]:
        """Resources of Ray, which starts here and runs until `close`."""
        return self._ray.enter_context(running_ray(self._config.workers))

    def _fit(
        self,
        trainable: Any,
        what: Mapping[str, Any],
        scheduler: Any,
        workers: int,
        board: Board,
    ) -> None:
        # Tune's own record of its trials; the ledger has all of it that counts.
        scratch = self._store / "ray" / uuid.uuid4().hex[:8]
        search = what.get("search_alg")
        tuner = tune.Tuner(
            trainable,
            param_space=what.get("param_space"),
            tune_config=tune.TuneConfig(
                search_alg=search,
                num_samples=1 if search is None else -1,
                scheduler=scheduler,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),
                callbacks=[_Listener(self, board, self._interruption)],
                stop=self._interruption,
                failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
                verbose=0,
            ),
        )
        try:
            with self._interruption.deferred():
                tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _past_rungs(self) -> list[Row]:
        """Rungs of earlier drivers, for a scheduler that compares with them."""
        return [
            {"trial_key": key, **row}
            for key in self.cells
            for row in self._history.checkpoints.get(key, [])
            if "compared" in row
        ]

    def on_result(self, key: str, result: Mapping[str, Any], board: Board) -> None:
        """One row of a trial: a rung, or its end."""
        row = own_values(result)
        if row.get("status") != "running":
            self._end(key, row, board)
            return
        self._checkpoints.setdefault(key, []).append(row)
        self._ledger.append({"event": "checkpoint", "fingerprint": key, "time": time.time(), **row})

    def on_complete(self, key: str, board: Board) -> None:
        """Tune is done with a trial; one that the scheduler stopped has no end row yet."""
        if key in self._stopped and key in self._checkpoints:
            self._end(key, {**self._checkpoints[key][-1], "status": "stopped"}, board)

    def on_error(self, key: str, error: str, board: Board) -> None:
        """A trial whose actor was lost more often than it is retried."""
        self._end(key, {"status": "failed", "error": error}, board)

    def _end(self, key: str, row: Row, board: Board) -> None:
        cell = self.cells[key]
        end = end_row(
            cell,
            row,
            stop_reason=self._stopped.get(key),
            checkpoints=self._checkpoints.pop(key, []),
            provenance=self._provenance,
        )
        self._ledger.append(end)
        self._mine.add(key)
        status = end["status"]
        self._note_value(end)
        self.outcome.counts[status] = self.outcome.counts.get(status, 0) + 1
        tracked = labelled(end, cell.spec, self._config)
        if status in ("failed", "diverged"):
            self.outcome.failures.append(tracked)
        self._tracker.log(tracked)
        board.ended(tracked)


class _Listener(tune.Callback):
    """Tune's events, handed to the sweep; a ledger that cannot be written ends the sweep."""

    def __init__(self, sweep: Sweep, board: Board, interruption: Interruption) -> None:
        self._sweep = sweep
        self._board = board
        self._interruption = interruption

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that this project never asks of it.
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._tell(self._sweep.on_result, trial.config["trial_key"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(self._sweep.on_complete, trial.config["trial_key"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.error_file and Path(trial.error_file).read_text()).strip().splitlines()
        reason = lines[-1] if lines else "the worker process died"
        self._tell(self._sweep.on_error, trial.config["trial_key"], reason)

    def _tell(self, event: Callable[..., None], *what: Any) -> None:
        try:
            event(*what, self._board)
        except LedgerError as error:
            self._interruption.fail(error)


def _grid(cells: Sequence[Cell]) -> dict[str, Any]:
    """The Tuner's param_space: a trial is passed by its key."""
    return {"trial_key": tune.grid_search([cell.key for cell in cells])}


def _is_protected(spec: TrialSpec, protect: Sequence[str]) -> bool:
    return spec.arm in protect or spec.method["name"] in protect
