"""Prints a dry run: the plan, the trials that are left of it, and the forecast of these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from orchestrator.errors import UsageError
from orchestrator.forecast.calibration import known_speed
from orchestrator.forecast.estimate import (
    DRIVER_SECONDS,
    START_SECONDS,
    PastTrial,
    forecast,
    forecast_trials,
)
from orchestrator.forecast.simulate import Job, Simulation, simulate
from orchestrator.planning.papers.deviations import deviation_lines
from orchestrator.planning.plan import Plan
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.precheck import cache_of, precheck
from orchestrator.settings.addresses import LOCAL
from orchestrator.store.ledger import History, Ledger
from orchestrator.store.settled import Options, ended, unsettled
from orchestrator.terminal.backbones import source_lines
from orchestrator.terminal.plan_tables import plan_tables
from orchestrator.threads import usable_cpus
from trainables.cache import default_cache
from trainables.edits.data_check import DataCheck


def dry_run(plan: Plan, options: Options, gpu_counts: Sequence[int] = ()) -> RenderableType:
    """Tables of the plan, with the forecast of what is left, and of all on each number of GPUs.

    Data are read, edits drawn and every Config built, as before a sweep; no backbone is loaded and
    nothing is written. The ledger alone says which trials are settled, see `ended`. The trials of a
    search are not known beforehand, so its forecast counts all of them.

    Raises:
        LedgerError: If a segment cannot be read.
        UsageError: If a trial cannot work, or needs more GPUs than one of the clusters has.
    """
    data = DataCheck(cache_of(plan.config), plan.compared_numbers)
    methods = {str(spec.method["name"]) for spec in plan.knowable}
    warnings = [*plan.notes, *plan.unpinned, *deviation_lines(plan.config, methods)]
    precheck(plan, lambda spec: warnings.extend(data.check(spec)))
    warnings += source_lines(plan.knowable, cache_of(plan.config))
    history = Ledger.read(plan.config.store)
    ends = history.ends.values()
    expected = forecast(
        left(plan, history, options),
        ends,
        workers=plan.config.workers or usable_cpus(),
        sharing=plan.config.sharing,
        cpu_flops=known_speed(default_cache()),
        cpus=usable_cpus() if plan.config.cluster == LOCAL else None,
        is_search=plan.is_search,
    )
    return plan_tables(plan, expected, simulated(plan, ends, gpu_counts), warnings)


def left(plan: Plan, history: History, options: Options) -> tuple[TrialSpec, ...]:
    """The plan's trials that a sweep with `options` would run; for a search, all."""
    if options.fresh or plan.is_search:
        return plan.typical
    settled = history.settled(
        retry_failed=options.retry_failed, complete_stopped=options.complete_stopped
    )
    return unsettled(plan.trials, ended(plan.trials, history), settled)


def simulated(plan: Plan, ends: Iterable[PastTrial], gpu_counts: Sequence[int]) -> list[Simulation]:
    """The whole plan simulated on each number of GPUs; a trial that needs none takes a whole one.

    Args:
        plan: The plan; for a search, its middle trial stands for all.
        ends: End rows of the ledger, for the trials' times.
        gpu_counts: Numbers of GPUs; each gives one schedule.

    Raises:
        UsageError: If a trial needs more GPUs than one of the clusters has.
    """
    trials = forecast_trials(plan.typical, ends, sharing=plan.config.sharing)
    jobs = [Job(trial.seconds, trial.gpus or 1.0) for trial in trials]
    most = max((job.gpus for job in jobs), default=0.0)
    for count in gpu_counts:
        if most > count:
            raise UsageError(f"--simulate-gpus {count}: a trial needs {most:g} GPUs")
    return [simulate(jobs, count, DRIVER_SECONDS, START_SECONDS) for count in gpu_counts]
