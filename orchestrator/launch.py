"""From a plan to settled trials: what is left to do, Ray, the Tuner, and what becomes of a result.

The ledger is the truth: a result is appended there first, then handed to MLflow and to the board.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Both are read when Ray is imported: no token is needed for a Ray that only this driver sees, and
# the old output engine is the one that can be silenced.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")

import ray
from ray import tune

from orchestrator.config import SweepConfig
from orchestrator.identity import fingerprint
from orchestrator.ledger import History, Ledger
from orchestrator.placement import preflight, resources
from orchestrator.plan import TrialSpec
from orchestrator.progress import Board, Building
from orchestrator.provenance import provenance
from orchestrator.rows import Cell, Resolved, Row, end_row, labelled, own_values
from orchestrator.scheduling import make_scheduler
from orchestrator.tracking import Tracker
from trainables.trial import EditTrial, Runtime, resolve_specs
from trainables.world import default_cache

MAX_RETRIES = 2  # of a lost node or a killed actor; a defect would only repeat itself
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What was typed beside the configuration."""

    retry_failed: bool = False
    complete_stopped: bool = False
    fresh: bool = False


@dataclass
class Outcome:
    """What a sweep came to."""

    counts: dict[str, int] = field(default_factory=dict)
    num_settled_before: int = 0
    num_other_source: int = 0  # of those, results of other source code
    failures: list[Row] = field(default_factory=list)
    tracking_failures: list[str] = field(default_factory=list)
    experiment_id: str = ""
    was_interrupted: bool = False


def resolve(
    specs: Sequence[TrialSpec],
    cache: Path,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[Cell]:
    """Backbones built, data read and every method's settings checked, before Ray starts.

    Raises:
        EditingError: Naming the first thing that cannot work.
    """
    found = resolve_specs([spec.to_dict() for spec in specs], cache, progress)
    resolved = [Resolved(**values) for values in found]
    return [
        Cell(fingerprint(spec, values.identity), spec, values)
        for spec, values in zip(specs, resolved, strict=True)
    ]


def run(config: SweepConfig, specs: Sequence[TrialSpec], options: Options) -> Outcome:
    """Settle every trial of a plan.

    Raises:
        EditingError: If something cannot work, before anything runs.
        LedgerError: If the store cannot be written or read.
    """
    cache = default_cache()
    with Building() as building:
        cells = resolve(specs, cache, building.advance)
    return Sweep(config, cells, options, cache).run()


class Sweep:
    """One driver's run over the cells of a plan."""

    def __init__(
        self, config: SweepConfig, cells: Sequence[Cell], options: Options, cache: Path
    ) -> None:
        """Open the store; nothing runs yet.

        Raises:
            LedgerError: If the store cannot be written or read.
        """
        self._config = config
        self._cells = {cell.key: cell for cell in cells}
        self._options = options
        self._cache = cache
        self._store = Path(config.store).resolve()
        self._history = Ledger.read(self._store)
        self._ledger = Ledger.open(self._store)
        self._checkpoints: dict[str, list[Row]] = {}
        self._provenance = provenance()
        self._tracker = Tracker(self._store, config.ablation, config.question)
        self._stopped: Mapping[str, str] = {}
        self.outcome = Outcome(experiment_id=self._tracker.experiment_id)

    def run(self) -> Outcome:
        """Run what is not settled; what ended is in the ledger, whatever happens."""
        settled = {} if self._options.fresh else self._settled()
        todo = [cell for key, cell in self._cells.items() if key not in settled]
        self.outcome.num_settled_before = len(settled)
        mine = self._provenance["source_hash"]
        for key, end in settled.items():
            self.outcome.num_other_source += end["provenance"]["source_hash"] != mine
            if not self._tracker.has(key, str(end["row_id"])):
                self._tracker.log(labelled(end, self._cells[key].spec, self._config))
        try:
            if todo:
                self._run(todo)
        finally:
            self._tracker.close()
            self.outcome.tracking_failures = self._tracker.failures
            self._ledger.close()
        return self.outcome

    def _settled(self) -> dict[str, Row]:
        keys = self._history.settled(
            retry_failed=self._options.retry_failed,
            complete_stopped=self._options.complete_stopped,
        )
        return {key: self._history.ends[key] for key in self._cells if key in keys}

    def _run(self, todo: Sequence[Cell]) -> None:
        chosen = self._config.scheduler
        if self._options.complete_stopped:
            chosen = chosen.model_copy(update={"name": "fifo"})
        scheduler, rungs = make_scheduler(
            chosen.name,
            protected=[cell.key for cell in todo if _is_protected(cell.spec, chosen.protect)],
            grace=chosen.grace,
            reduction_factor=chosen.reduction_factor,
            past=_past_rungs(self._history, self._cells),
        )
        self._stopped = getattr(scheduler, "stopped", {})
        runtime = Runtime(
            cache=self._cache,
            store=self._store,
            rungs=rungs,
            rung_score=chosen.metric if len(rungs) > 1 else None,
        )
        plan = {cell.key: cell.spec.to_dict() for cell in todo}
        with running_ray(self._config.workers) as cluster:
            for cell in todo:
                preflight(cell.spec, cluster)
            needs = [resources(cell.spec, cluster) for cell in todo]
            need = {kind: max(each[kind] for each in needs) for kind in ("cpu", "gpu")}
            trainable = tune.with_resources(
                tune.with_parameters(EditTrial, plan=plan, runtime=runtime), need
            )
            workers = self._config.workers or max(1, int(cluster["CPU"] // need["cpu"]))
            with Board(len(todo), workers) as board:
                try:
                    self._fit(trainable, list(plan), scheduler, workers, board)
                except KeyboardInterrupt:
                    self.outcome.was_interrupted = True

    def _fit(
        self, trainable: Any, keys: Sequence[str], scheduler: Any, workers: int, board: Board
    ) -> None:
        # Tune's own record of its trials; the ledger has all of it that counts.
        scratch = self._store / "ray" / uuid.uuid4().hex[:8]
        tuner = tune.Tuner(
            trainable,
            param_space={"trial_key": tune.grid_search(list(keys))},
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),
                callbacks=[_Listener(self, board)],
                failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def on_result(self, key: str, result: Mapping[str, Any], board: Board) -> None:
        """One row of a trial: a rung, or its end."""
        row = own_values(result)
        if row.get("status") != "running":
            self._end(key, row, board)
            return
        self._checkpoints.setdefault(key, []).append(row)
        self._ledger.append(
            {"event": "checkpoint", "fingerprint": key, "time": time.time(), **row}
        )

    def on_complete(self, key: str, board: Board) -> None:
        """Tune is done with a trial; one that the scheduler stopped has no end row yet."""
        if key in self._stopped and key in self._checkpoints:
            self._end(key, {**self._checkpoints[key][-1], "status": "stopped"}, board)

    def on_error(self, key: str, error: str, board: Board) -> None:
        """A trial whose actor was lost more often than it is retried."""
        self._end(key, {"status": "failed", "error": error}, board)

    def _end(self, key: str, row: Row, board: Board) -> None:
        cell = self._cells[key]
        end = end_row(
            cell,
            row,
            stop_reason=self._stopped.get(key),
            checkpoints=self._checkpoints.pop(key, []),
            provenance=self._provenance,
        )
        self._ledger.append(end)
        status = end["status"]
        self.outcome.counts[status] = self.outcome.counts.get(status, 0) + 1
        tracked = labelled(end, cell.spec, self._config)
        if status in ("failed", "diverged"):
            self.outcome.failures.append(tracked)
        self._tracker.log(tracked)
        board.ended(tracked)


class _Listener(tune.Callback):  # type: ignore[misc]
    """Tune's events, handed to the sweep."""

    def __init__(self, sweep: Sweep, board: Board) -> None:
        self._sweep = sweep
        self._board = board

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that this project never asks of it.
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._sweep.on_result(trial.config["trial_key"], result, self._board)

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        self._sweep.on_complete(trial.config["trial_key"], self._board)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.error_file and Path(trial.error_file).read_text()).strip().splitlines()
        reason = lines[-1] if lines else "the worker process died"
        self._sweep.on_error(trial.config["trial_key"], reason, self._board)


def _is_protected(spec: TrialSpec, protect: Sequence[str]) -> bool:
    return spec.arm in protect or spec.method["name"] in protect


def _past_rungs(history: History, cells: Mapping[str, Cell]) -> list[Row]:
    return [
        {"trial_key": key, **row}
        for key in cells
        for row in history.checkpoints.get(key, [])
        if "compared" in row
    ]


@contextmanager
def running_ray(workers: int | None) -> Iterator[Mapping[str, float]]:
    """Ray on this machine, quiet, with its resources; shut down at the end."""
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    try:
        yield dict(ray.cluster_resources())
    finally:
        ray.shutdown()
