"""What `--dry-run` prints: the plan, what is left of it, and what that will take."""

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
from orchestrator.planning.plan import Plan
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.precheck import cache_of, precheck
from orchestrator.settings.addresses import LOCAL
from orchestrator.store.ledger import History, Ledger
from orchestrator.store.settled import Options, ended, unsettled
from orchestrator.terminal import listing
from orchestrator.threads import usable_cpus
from trainables.cache import default_cache
from trainables.edits.data_check import DataCheck


def dry_run(plan: Plan, options: Options, gpu_counts: Sequence[int] = ()) -> RenderableType:
    """The plan with the forecast of its trials that are left, and of all on so many GPUs.

    The data are read, the edits drawn and every Config is built, as before a sweep; no backbone is
    loaded and nothing written. What is settled is told from the ledger alone, see `ended`. Of a
    search no trial is known beforehand, so that its forecast counts all.

    Raises:
        LedgerError: If a segment cannot be read.
        UsageError: If a trial cannot work, or needs more GPUs than one of the clusters has.
    """
    data, warnings = DataCheck(cache_of(plan.config)), list(plan.notes)
    precheck(plan, lambda spec: warnings.extend(data.check(spec)))
    history = Ledger.read(plan.config.store)
    ends = history.ends.values()
    expected = forecast(
        left(plan, history, options),
        ends,
        workers=plan.config.workers or usable_cpus(),
        sharing=plan.config.sharing,
        cpu_flops=known_speed(default_cache()),
        cpus=usable_cpus() if plan.config.cluster == LOCAL else None,
    )
    return listing.plan_tables(plan, expected, simulated(plan, ends, gpu_counts), warnings)


def left(plan: Plan, history: History, options: Options) -> tuple[TrialSpec, ...]:
    """The plan's trials that a sweep with `options` would run; all of a search's."""
    if options.fresh or plan.is_search:
        return plan.typical
    settled = history.settled(
        retry_failed=options.retry_failed, complete_stopped=options.complete_stopped
    )
    return unsettled(plan.trials, ended(plan.trials, history), settled)


def simulated(plan: Plan, ends: Iterable[PastTrial], gpu_counts: Sequence[int]) -> list[Simulation]:
    """The whole plan on clusters of so many GPUs; a trial that needs none takes a whole one.

    Args:
        plan: Its trials, or as many of the middle of a search's space.
        ends: End rows of the ledger, for the trials' times.
        gpu_counts: One schedule each.

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
