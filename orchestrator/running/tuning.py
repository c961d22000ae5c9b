"""Ray's side of a sweep: runs one Tuner after another and hands its events to a listener.

Imported when the first trial is to run, not before: Ray takes seconds to import and to start, and
reads its environment when it is imported (`cluster.set_environment`).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.schedulers import TrialScheduler

from orchestrator.forecast.placement import (
    Placement,
    at_a_time,
    beside_gib,
    packs_within,
    rows_at_a_time,
)
from orchestrator.planning.cell import Cell, Remembered
from orchestrator.planning.packs import automatic_size, leaders_first, packs
from orchestrator.planning.plan import TrialSpec
from orchestrator.planning.searches import Search
from orchestrator.running.events import Events, Listener, Stop
from orchestrator.running.interruption import Interruption
from orchestrator.running.machines import Machines
from orchestrator.running.scheduling import PlannedSearch, Protecting, make_scheduler
from orchestrator.running.watchdog import PulseTaker, Watchdog
from orchestrator.settings.models import SweepConfig
from orchestrator.store.rows import MAX_RETRIES
from trainables.trials.compared import Compares
from trainables.trials.packs.mates import Packs
from trainables.trials.ray_trial import EditTrial
from trainables.trials.run import Runtime


class Tuning:
    """Runs trials of one sweep, one Tuner after another."""

    def __init__(
        self,
        config: SweepConfig,
        cache: Path,
        store: Path,
        scratch: Path,
        machines: Machines,
        interruption: Interruption,
        listener: Listener,
        tuner: Callable[..., Any] = tune.Tuner,
    ) -> None:
        """Nothing is started.

        Args:
            config: The sweep.
            cache: Folder of embedded backbones and artefacts.
            store: The sweep's folder.
            scratch: A folder of this driver's own in the store.
            machines: The machines that the trials run on; closed with this.
            interruption: Ends a Tuner.
            listener: Is told what happens to the trials.
            tuner: Ray's own Tuner, or a replacement of it.
        """
        self._scratch = scratch
        self._config = config
        self._cache = cache
        self._store = store
        self._machines = machines
        self._interruption = interruption
        self._listener = listener
        self._tuner = tuner
        self._scheduler: TrialScheduler | None = None  # of the Tuner that runs now

    def run(self, cells: Sequence[Cell], scheduler: str, past: Sequence[Mapping[str, Any]]) -> None:
        """Run the trials of a grid.

        Args:
            cells: Trials of the grid that are left.
            scheduler: fifo, asha or median.
            past: Rungs of earlier drivers, for the scheduler to compare with.
        """
        specs = {cell.key: cell.spec.to_dict() for cell in cells}
        heard = self._fit(cells, scheduler, past, specs)
        self._tell_lost((cell.key for cell in cells), heard)

    def search(
        self,
        search: Search,
        seed: int,
        num_trials: int,
        to_config: Callable[[Mapping[str, Any]], dict[str, Any] | Remembered],
        typical: Cell,
    ) -> None:
        """Run what Optuna suggests; see `PlannedSearch`, whose arguments most of these are.

        `typical` stands for all trials where resources are counted.
        """
        searcher = PlannedSearch(
            search.distributions,
            seed,
            num_trials,
            to_config,
            self._recall,
            self._was_stopped,
            self._config.scheduler.compared.mode,
            search.start,
        )
        heard = self._fit([typical], self._config.scheduler.name, (), {}, search_alg=searcher)
        searcher.tell_lost()
        self._tell_lost(searcher.keys, heard)

    def close(self) -> None:
        """Stop Ray, if it was started."""
        self._machines.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _recall(self, past: Sequence[Mapping[str, Any]]) -> None:
        """Let the scheduler that runs now compare with rungs of earlier drivers."""
        if isinstance(self._scheduler, Protecting):
            self._scheduler.recall(past)

    def _was_stopped(self, key: str) -> bool:
        """Whether the scheduler that runs now stopped a trial."""
        return isinstance(self._scheduler, Protecting) and key in self._scheduler.stopped

    def _fit(
        self,
        cells: Sequence[Cell],
        scheduler_name: str,
        past: Sequence[Mapping[str, Any]],
        specs: Mapping[str, Mapping[str, Any]],
        *,
        search_alg: PlannedSearch | None = None,
    ) -> Collection[str]:
        """Run one Tuner to its end; returns the trials that the listener was told of.

        Args:
            cells: All trials of a grid, or one that stands for those of a search.
            scheduler_name: fifo, asha or median.
            past: Rungs of earlier drivers.
            specs: Specifications of a grid's trials; those of a search bring their own.
            search_alg: Suggests trials, in place of a grid.
        """
        scheduler, rungs = self._scheduled(scheduler_name, cells, past)
        is_compared = len(rungs) > 1 or search_alg is not None
        nodes, need = self._machines.nodes, self._machines.need(cells)
        workers, made = self._arranged(cells, specs, need)
        runtime = self._runtime(need, rungs, cells, is_compared=is_compared)
        events = Events(self._listener, scheduler, self._interruption, nodes)
        # Tune's own record of its trials; the ledger has all of it that counts.
        scratch = self._scratch / uuid.uuid4().hex[:8]
        if made:
            of = {key: pack for pack in made for key in pack}
            told = Packs(of, scratch / "claims", measures=self._config.pack == "auto")
            runtime = replace(runtime, packs=told)
        order = [*specs]
        if made and scheduler_name == "fifo":
            order = leaders_first({cell.key: cell.spec for cell in cells}, made)
        grid = None if search_alg else {"trial_key": tune.grid_search(order)}
        trainable = tune.with_parameters(EditTrial, plan=specs, runtime=runtime)
        tuner = self._tuner(
            tune.with_resources(trainable, _bundles(need, nodes.unfit)),
            param_space=grid,
            tune_config=tune.TuneConfig(
                search_alg=search_alg,
                num_samples=1 if search_alg is None else -1,
                scheduler=scheduler,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=self._recorded_in(scratch, events),
        )
        try:
            with self._interruption.deferred(), self._watchdog(events, runtime.pulses):
                tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return events.heard

    def _arranged(
        self, cells: Sequence[Cell], specs: Collection[str], need: Placement
    ) -> tuple[int, tuple[tuple[str, ...], ...]]:
        """How many trials run at a time, and keys of those that may be trained together.

        None may that share a GPU with others, or several GPUs or processes among them.

        Args:
            cells: As of `_fit`.
            specs: Keys of the trials of a grid; none of a search.
            need: The resources of one trial.
        """
        trials = {cell.key: cell.spec for cell in cells if cell.key in specs}
        typed, there = self._config.pack, self._machines.supply.total
        is_shared = need.parallel != "none" or 0 < need.gpu < 1
        if is_shared or not trials or self._config.max_trial_seconds is not None:
            typed = 1
        size = 1 if typed == "auto" else typed
        workers = self._config.workers or at_a_time(
            need, (cell.spec for cell in cells), there, size
        )
        if typed == "auto":
            size = automatic_size(len(trials), workers, on_gpu=need.gpu > 0)
            if not need.gpu:
                size = min(size, packs_within(trials.values(), workers, there))
        return workers, packs(trials, size) if size > 1 else ()

    def _scheduled(
        self, name: str, cells: Sequence[Cell], past: Sequence[Mapping[str, Any]]
    ) -> tuple[TrialScheduler, tuple[float, ...]]:
        """The scheduler of the next Tuner, and its rungs."""
        chosen = self._config.scheduler
        self._scheduler, rungs = make_scheduler(
            name,
            protected=[cell.key for cell in cells if _is_protected(cell.spec, chosen.protect)],
            grace=chosen.grace,
            reduction_factor=chosen.reduction_factor,
            mode=chosen.compared.mode,
            past=past,
        )
        return self._scheduler, rungs

    def _runtime(
        self,
        need: Placement,
        rungs: tuple[float, ...],
        cells: Collection[Cell],
        *,
        is_compared: bool,
    ) -> Runtime:
        """The settings that every trial gets besides its specification."""
        demands = self._machines.nodes.demands
        compared = self._config.scheduler.compared
        specs, is_sharded = [cell.spec for cell in cells], need.parallel == "shard"
        return Runtime(
            cache=self._cache,
            store=self._store,
            rungs=rungs,
            compares=Compares(compared.name, compared.numbers) if is_compared else None,
            max_seconds=self._config.max_trial_seconds,
            max_trials=self._config.max_trials_per_process,
            is_sharded=is_sharded,
            beside_gib=beside_gib(specs) if is_sharded else 0.0,
            num_ranks=need.num_bundles,
            problems=demands.problems if demands is not None else None,
            pulses=self._scratch / "pulses",
            rows_at_a_time=rows_at_a_time(specs, need, self._config.sharing),
        )

    def _recorded_in(self, scratch: Path, events: Events) -> tune.RunConfig:
        """How Tune runs: quietly, its files in `scratch`, a lost actor tried again."""
        return tune.RunConfig(
            name="sweep",
            storage_path=str(scratch),
            storage_filesystem=LocalFileSystem(),  # or a `?` in the path would end it
            callbacks=[events],
            stop=Stop(self._interruption),
            failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
            verbose=0,
        )

    def _watchdog(self, events: Events, pulses: Path | None) -> Watchdog:
        """The watchdog that looks on while Tune runs."""
        silent = self._config.max_silent_seconds
        taker = PulseTaker(pulses, silent)
        return Watchdog(
            self._interruption, silent, lambda: (events.num_moves, taker.latest()), events.due
        )

    def _tell_lost(self, keys: Iterable[str], heard: Collection[str]) -> None:
        for key in keys:
            if key not in heard:
                self._listener.on_lost(key, "Ray lost it without a word")


def _bundles(need: Placement, without: Collection[str] = ()) -> tune.PlacementGroupFactory:
    """Bundles of one trial; its own actor is in the first, further ones are for its ranks.

    No bundle is placed on a node that is left out.
    """
    bundle = {"CPU": need.cpu, "GPU": need.gpu} if need.gpu else {"CPU": need.cpu}
    bundles = [dict(bundle) for _ in range(need.num_bundles)]
    if not without:
        return tune.PlacementGroupFactory(bundles)
    elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(without))})"}
    return tune.PlacementGroupFactory(bundles, bundle_label_selector=[elsewhere] * len(bundles))


def _is_protected(spec: TrialSpec, protect: Collection[str]) -> bool:
    return spec.arm in protect or spec.method["name"] in protect
