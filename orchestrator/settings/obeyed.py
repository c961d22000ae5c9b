"""Refuses settings that would have no effect."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from orchestrator.errors import UsageError
from orchestrator.settings.addresses import LOCAL
from orchestrator.settings.complaints import unknown
from orchestrator.settings.metrics import at_rungs

if TYPE_CHECKING:
    from orchestrator.settings.models import SweepConfig

WORKER_NICENESS = "RAY_worker_niceness"  # the variable that Ray reads
# Keys of `scheduler` that a rule reads, beside its name.
_READ = {
    "fifo": frozenset({"metric", "protect"}),  # what arms are ranked by; it holds of every arm
    "asha": frozenset({"metric", "grace", "reduction_factor", "protect"}),
    "median": frozenset({"metric", "grace", "protect"}),
}


def check_obeyed(config: SweepConfig, typed: Collection[str]) -> None:
    """Checks that every typed key of the sweep has an effect.

    Args:
        config: The sweep. Keys of its files may be without effect, as a file may be meant for
            another plan or scheduler.
        typed: Keys of the command line.

    Raises:
        UsageError: For a key typed that changes nothing, or a name that does not exist.
    """
    _check_scheduler(config, typed)
    if config.niceness and config.cluster != LOCAL:
        raise UsageError(
            f"niceness={config.niceness}: the workers of cluster={config.cluster} have that of "
            f"their own start ({WORKER_NICENESS}={config.niceness} before `ray start`); it is for "
            "cluster=local"
        )
    for key in sorted(typed):
        if key in ("evaluate.questions", "evaluate.path") and not config.evaluate.ability:
            raise UsageError(f"{key}: nothing is asked; it is for evaluate.ability=[TASK, ...]")
    for key in sorted(typed):
        if key.split(".")[0] in ("num_trials", "rerun") and not config.is_search:
            raise UsageError(f"{key}: it is for plan=search and tune; this is plan={config.plan}")
    if config.is_search and "scheduler.protect" in typed:
        raise UsageError(
            "scheduler.protect: a search has no arms that could be protected; it is for plan=grid "
            "and one_at_a_time"
        )
    if "start_at" in typed and config.plan != "tune":
        raise UsageError(f"start_at: it is for plan=tune; this is plan={config.plan}")
    if config.is_search and config.where:
        raise UsageError(
            f"where={list(config.where)}: a search draws every combination of its axes; "
            "choose axes that fit each other, with where=[]"
        )
    if config.published_on is not None:
        known = config.spaces.names("backbone")
        if config.published_on not in known:
            raise unknown(f"published_on={config.published_on}", config.published_on, known)
    if "paper" in typed:
        _check_paper(config)
    moved = {*config.axes, *(key for each in config.arms.values() for key in each)}
    for key in sorted(config.stands_for):
        if key not in moved:
            raise unknown(f"stands_for.{key} (no axis, no key of an arm)", key, moved)


def _check_scheduler(config: SweepConfig, typed: Collection[str]) -> None:
    name, read = config.scheduler.name, _READ[config.scheduler.name]
    for key in sorted(typed):
        first, _, field = key.partition(".")
        if first == "scheduler" and field and field not in read:
            others = ", ".join(
                f"scheduler={other}" for other, keys in _READ.items() if field in keys
            )
            raise UsageError(f"{key}: scheduler={name} does not read it; it is for {others}")
    if name != "fifo" and not config.scheduler.compared.has_rungs:
        raise UsageError(
            f"scheduler.metric={config.scheduler.metric}: it is measured at the end alone, and "
            f"scheduler={name} compares before; choose one of {', '.join(at_rungs())}"
        )


def _check_paper(config: SweepConfig) -> None:
    known = set[str]()
    for ablation in config.spaces.names("ablation"):
        answered = config.spaces.load("ablation", ablation).get("paper") or ()
        known |= {answered} if isinstance(answered, str) else set(answered)
    for paper in config.paper:
        if paper not in known:
            raise unknown(f"paper={paper}", paper, known)
