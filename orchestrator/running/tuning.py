"""Ray's side of a sweep: one Ray for its time, one Tuner after another, events for a listener.

Imported when the first trial is to run, not before: Ray takes seconds to import and to start, and
reads its environment when it is imported (`cluster.set_environment`).
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.schedulers import TrialScheduler

from orchestrator.errors import LedgerError, UsageError
from orchestrator.forecast.placement import (
    Placement,
    Supply,
    at_a_time,
    placement,
    preflight,
    widest,
)
from orchestrator.planning.cell import Cell, Settled
from orchestrator.planning.distributions import Distribution
from orchestrator.planning.plan import TrialSpec
from orchestrator.running.cluster import LOCAL, running_ray, supply
from orchestrator.running.interruption import Interruption
from orchestrator.running.nodes import MOST_UNFIT, Demands, Nodes
from orchestrator.running.scheduling import (
    PlannedSearch,
    Protecting,
    make_scheduler,
    tune_distribution,
)
from orchestrator.running.watchdog import PulseTaker, Watchdog
from orchestrator.settings.models import SweepConfig
from orchestrator.store.rows import MAX_RETRIES, Row
from trainables.trials.compared import Compares
from trainables.trials.ray_trial import EditTrial
from trainables.trials.run import Runtime


class Listener(Protocol):
    """Who is told what becomes of the trials; `key` is a trial's fingerprint."""

    def on_stage(self, stage: str) -> None:
        """What goes on while no trial runs."""

    def on_result(self, key: str, row: Row) -> None:
        """One row of a trial: a rung, or its end."""

    def on_stopped(self, key: str, reason: str) -> None:
        """The scheduler ended a trial behind its last rung."""

    def on_lost(self, key: str, error: str) -> None:
        """A trial that was lost before it began, and that Tune does not try again."""

    def on_misplaced(self, key: str, problem: str) -> None:
        """A trial that was given to a node that cannot work on the sweep; it has not ended."""

    def on_error(self, key: str, error: str) -> None:
        """A trial whose actor was lost more often than it is retried."""


class Tuning:
    """Runs trials of one sweep; Ray starts with the first and ends with `close`."""

    def __init__(
        self,
        config: SweepConfig,
        cache: Path,
        store: Path,
        scratch: Path,
        interruption: Interruption,
        listener: Listener,
    ) -> None:
        """Nothing is started; `scratch` is a folder of this driver's own in the store."""
        self._scratch = scratch
        self._config = config
        self._cache = cache
        self._store = store
        self._interruption = interruption
        self._listener = listener
        self._ray = ExitStack()
        self._supplies: dict[frozenset[str], Supply] = {}  # by the nodes that are left out
        self._scheduler: TrialScheduler | None = None  # of the Tuner that runs now

    def run(self, cells: Sequence[Cell], scheduler: str, past: Sequence[Mapping[str, Any]]) -> None:
        """Run the trials of a grid.

        Args:
            cells: What is left of it.
            scheduler: fifo, asha or median.
            past: Rungs of earlier drivers, for the scheduler to compare with.
        """
        grid = {"trial_key": tune.grid_search([cell.key for cell in cells])}
        specs = {cell.key: cell.spec.to_dict() for cell in cells}
        self._fit(cells, scheduler, past, specs=specs, param_space=grid)

    def search(
        self,
        space: Mapping[str, Distribution],
        seed: int,
        num_trials: int,
        to_config: Callable[[Mapping[str, Any]], dict[str, Any] | Settled],
        typical: Cell,
    ) -> None:
        """Run what Optuna suggests; see `PlannedSearch`, whose arguments these are.

        `typical` stands for all trials where resources are counted.
        """
        drawn = {key: tune_distribution(each) for key, each in space.items()}
        searcher = PlannedSearch(
            drawn,
            seed,
            num_trials,
            to_config,
            self._recall,
            self._was_stopped,
            self._config.scheduler.compared.mode,
        )
        self._fit([typical], self._config.scheduler.name, (), search_alg=searcher)

    def close(self) -> None:
        """Stop Ray, if it was started."""
        self._ray.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _recall(self, past: Sequence[Mapping[str, Any]]) -> None:
        """Let the scheduler that runs now compare with rungs of earlier drivers."""
        if isinstance(self._scheduler, Protecting):
            self._scheduler.recall(past)

    def _was_stopped(self, key: str) -> bool:
        """Whether the scheduler that runs now stopped a trial."""
        return isinstance(self._scheduler, Protecting) and key in self._scheduler.stopped

    @cached_property
    def _nodes(self) -> Nodes:
        """What this sweep works on; Ray starts here, and runs until `close`.

        Raises:
            UsageError: If there is no such cluster, or one of its nodes cannot work on the sweep.
        """
        cluster = self._config.cluster
        self._ray.enter_context(
            running_ray(cluster, self._config.workers, torch.cuda.device_count())
        )
        self._listener.on_stage("starting the first trials")
        if cluster == LOCAL:
            return Nodes(None)
        nodes = Nodes(Demands.of_this_process(self._store, self._scratch))
        nodes.look()
        nodes.raise_if_more_than(0)
        return nodes

    @property
    def _supply(self) -> Supply:
        """What Ray had, or might get, at the start or when a node was first left out.

        It is not counted again each time: a node that is lost may come back.
        """
        left_out = frozenset(self._nodes.unfit)
        if left_out not in self._supplies:
            self._supplies[left_out] = supply(self._config.cluster, left_out)
        return self._supplies[left_out]

    def _need(self, cells: Sequence[Cell]) -> Placement:
        """What is enough for every trial.

        Raises:
            UsageError: If the cluster can never give it.
        """
        there, sharing = self._supply, self._config.sharing
        for cell in cells:
            preflight(cell.spec, there.total, sharing, there.nodes)
        return widest(placement(cell.spec, there.total, sharing) for cell in cells)

    def _fit(
        self,
        cells: Sequence[Cell],
        scheduler_name: str,
        past: Sequence[Mapping[str, Any]],
        *,
        specs: Mapping[str, Mapping[str, Any]] | None = None,
        param_space: dict[str, Any] | None = None,
        search_alg: PlannedSearch | None = None,
    ) -> None:
        chosen = self._config.scheduler
        scheduler, rungs = make_scheduler(
            scheduler_name,
            protected=[cell.key for cell in cells if _is_protected(cell.spec, chosen.protect)],
            grace=chosen.grace,
            reduction_factor=chosen.reduction_factor,
            mode=chosen.compared.mode,
            past=past,
        )
        self._scheduler = scheduler
        is_compared = len(rungs) > 1 or search_alg is not None
        nodes, need = self._nodes, self._need(cells)
        runtime = Runtime(
            cache=self._cache,
            store=self._store,
            rungs=rungs,
            compares=Compares(chosen.metric, chosen.compared.numbers) if is_compared else None,
            max_seconds=self._config.max_trial_seconds,
            max_trials=self._config.max_trials_per_process,
            is_sharded=need.parallel == "shard",
            num_ranks=need.num_bundles,
            problems=nodes.demands.problems if nodes.demands is not None else None,
            pulses=self._scratch / "pulses",
        )
        events = _Events(self._listener, scheduler, self._interruption, nodes)
        pulses = PulseTaker(runtime.pulses, self._config.max_silent_seconds)
        watchdog = Watchdog(
            self._interruption,
            self._config.max_silent_seconds,
            lambda: (events.num_moves, pulses.latest()),
            events.due,
        )
        # Tune's own record of its trials; the ledger has all of it that counts.
        scratch = self._scratch / uuid.uuid4().hex[:8]
        trainable = tune.with_parameters(EditTrial, plan=specs or {}, runtime=runtime)
        tuner = tune.Tuner(
            tune.with_resources(trainable, _bundles(need, nodes.unfit)),
            param_space=param_space,
            tune_config=tune.TuneConfig(
                search_alg=search_alg,
                num_samples=1 if search_alg is None else -1,
                scheduler=scheduler,
                max_concurrent_trials=self._config.workers
                or at_a_time(need, (cell.spec for cell in cells), self._supply.total),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),
                storage_filesystem=LocalFileSystem(),  # or a `?` in the path would end it
                callbacks=[events],
                stop=_Stop(self._interruption),
                failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
                verbose=0,
            ),
        )
        try:
            with self._interruption.deferred(), watchdog:
                tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if search_alg is not None:
            search_alg.tell_lost()
        for key in [cell.key for cell in cells] if search_alg is None else search_alg.keys:
            if key not in events.heard:
                self._listener.on_lost(key, "Ray lost it without a word")


def _bundles(need: Placement, without: Collection[str] = ()) -> tune.PlacementGroupFactory:
    """Bundles of one trial; its own actor is in the first, further ones are for its ranks.

    None lies on a node of those left out.
    """
    bundle = {"CPU": need.cpu, "GPU": need.gpu} if need.gpu else {"CPU": need.cpu}
    bundles = [dict(bundle) for _ in range(need.num_bundles)]
    if not without:
        return tune.PlacementGroupFactory(bundles)
    elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(without))})"}
    return tune.PlacementGroupFactory(bundles, bundle_label_selector=[elsewhere] * len(bundles))


class _Stop(tune.Stopper):
    """Ends Tune's loop when the sweep is interrupted; no trial is stopped for its own result."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._interruption.is_over


class _Events(tune.Callback):
    """Tune's events, handed on; a ledger that cannot be written ends the sweep."""

    def __init__(
        self, listener: Listener, scheduler: Any, interruption: Interruption, nodes: Nodes
    ) -> None:
        self._listener = listener
        self._stopped: Mapping[str, str] = getattr(scheduler, "stopped", {})
        self._interruption = interruption
        self._nodes = nodes
        self._left_out = frozenset(nodes.unfit)  # from the beginning of this Tuner on
        self._trials: Sequence[Any] = ()  # all that Tune knows
        self.num_moves = 0  # of trials: another number whenever one began, reported or ended
        self.heard: set[str] = set()  # trials of which the listener knows what became of them

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that this project never asks of it.
        return {}

    def due(self) -> str:
        """How many trials are waited for, in words."""
        states = Counter(trial.status.lower() for trial in tuple(self._trials))
        return f"trials: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}"

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._trials = trials

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.num_moves += 1

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.num_moves += 1

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.num_moves += 1
        key, row = trial.config["trial_key"], json.loads(result["row"])
        if row["done"]:
            self.heard.add(key)
        if row["status"] == "unfit":
            self._nodes.leave_out(row["node"], row["error"])
            self._tell_misplaced(key)
        elif row["status"] == "unstored":
            self._interruption.fail(LedgerError(f"a trial cannot write: {row['error']}"))
        else:
            self._tell(self._listener.on_result, key, row)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = trial.config["trial_key"]
        self.num_moves += 1
        if key in self._stopped:
            self.heard.add(key)
            self._tell(self._listener.on_stopped, key, self._stopped[key])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.num_moves += 1
        self.heard.add(trial.config["trial_key"])
        self._nodes.look()  # one without the code shows it here alone
        if self._nodes.unfit.keys() - self._left_out:
            self._tell_misplaced(trial.config["trial_key"])
            return
        lines = str(trial.error_file and Path(trial.error_file).read_text()).strip().splitlines()
        reason = lines[-1] if lines else "the worker process died"
        # Tune repeats a trial that runs, but not one whose kept actor dies while it takes it over.
        is_tried_out = trial.num_failures > MAX_RETRIES
        event = self._listener.on_error if is_tried_out else self._listener.on_lost
        self._tell(event, trial.config["trial_key"], reason)

    def _tell_misplaced(self, key: str) -> None:
        problems = [self._nodes.unfit[node] for node in self._nodes.unfit.keys() - self._left_out]
        self._tell(self._listener.on_misplaced, key, "; ".join(sorted(problems)))
        self._tell(self._nodes.raise_if_more_than, MOST_UNFIT)

    def _tell(self, event: Callable[..., None], *what: Any) -> None:
        try:
            event(*what)
        except UsageError as error:
            self._interruption.fail(error)


def _is_protected(spec: TrialSpec, protect: Collection[str]) -> bool:
    return spec.arm in protect or spec.method["name"] in protect
