"""Schedulers and search: FIFO, Ray's own ASHA and median rule, Optuna; and why a trial stopped.

ASHA in Tune stops and never promotes, so what it stops depends on the order of the grid: the plan
shuffles, and arms named in `protect` are never stopped. It stops what is below the cutoff, so that
of trials with one score, of which an early rung has many, all would go on: `_untied` draws among
them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import Searcher

from orchestrator.planning.cell import Remembered
from orchestrator.planning.distributions import Distribution
from orchestrator.settings.metrics import Mode

MEDIAN_RUNGS = (0.25, 0.5, 1.0)  # shares of progress
TIME_ATTR = "rung"  # 1, 2, ...: number of the share of progress among the rungs
METRIC = "compared"

_TIE = 1e-9  # below the difference that one token of any answer makes


class Protecting(FIFOScheduler):
    """Follows another scheduler, but never stops a protected trial; remembers what it stopped."""

    def __init__(
        self,
        inner: TrialScheduler,
        reason: str,
        protected: Collection[str],
        times: Sequence[float],
        remember: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """Nothing is decided yet.

        Args:
            inner: The scheduler that decides.
            reason: Why a trial stopped, in a word.
            protected: Keys of trials that are never stopped.
            times: The value that `inner` is told instead of each rung's number.
            remember: Lets `inner` know of a rung of an earlier driver; None: it does not compare
                with those.
        """
        super().__init__()
        self._inner = inner
        self._reason = reason
        self._protected = frozenset(protected)
        self._times = tuple(times)
        self._remember = remember
        self.stopped: dict[str, str] = {}  # trial key -> reason

    def recall(self, past: Sequence[Mapping[str, Any]]) -> None:
        """Also compare with rungs of earlier drivers; for the rows see `make_scheduler`."""
        if self._remember is not None:
            for row in past:
                self._remember(row)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Hand the metric on."""
        return bool(self._inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Announce a trial."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on or stop; a score that is not finite is compared with nothing."""
        if not _is_comparable(result):
            return str(TrialScheduler.CONTINUE)
        decision = str(
            self._inner.on_trial_result(tune_controller, trial, self._told(trial, result))
        )
        key = str(trial.config["trial_key"])
        if decision == TrialScheduler.STOP and not result.get("done"):
            if key in self._protected:
                return str(TrialScheduler.CONTINUE)
            self.stopped[key] = self._reason
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial ended by itself; one that failed has nothing to compare."""
        if _is_comparable(result):
            self._inner.on_trial_complete(tune_controller, trial, self._told(trial, result))
        else:
            self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial was taken out."""
        self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial broke."""
        self._inner.on_trial_error(tune_controller, trial)

    def debug_string(self) -> str:
        """The inner scheduler's account of itself."""
        return str(self._inner.debug_string())

    def _told(self, trial: Any, result: dict[str, Any]) -> dict[str, Any]:
        value = _untied(result[METRIC], str(trial.config["trial_key"]))
        return {**result, TIME_ATTR: self._times[result[TIME_ATTR] - 1], METRIC: value}


@dataclass(frozen=True)
class _Past:
    """A trial of an earlier driver, with the attributes that a scheduler reads."""

    trial_id: str


def make_scheduler(
    name: str,
    *,
    protected: Collection[str] = (),
    grace: float = 0.25,
    reduction_factor: int = 2,
    mode: Mode = "max",
    past: Sequence[Mapping[str, Any]] = (),
) -> tuple[TrialScheduler, tuple[float, ...]]:
    """A scheduler and the shares of progress at which trials report to it.

    Args:
        name: fifo, asha or median.
        protected: Keys of trials that are never stopped.
        grace: Least progress at which a trial may be stopped, in (0, 1].
        reduction_factor: ASHA goes on with the best 1 / reduction_factor of a rung.
        mode: Whether the largest or the smallest value is the best.
        past: Rows of earlier drivers (trial_key, progress, compared): a resumed sweep compares
            with what was there before, as if it had never stopped.
    """
    if name == "fifo":
        return FIFOScheduler(), (1.0,)
    if name == "median":
        return _median(grace, protected, mode)
    made, rungs = _asha(grace, reduction_factor, protected, mode)
    made.recall(past)
    return made, rungs


def _median(
    grace: float, protected: Collection[str], mode: Mode
) -> tuple[Protecting, tuple[float, ...]]:
    """Tune's median rule; it compares with no earlier driver."""
    first = next(number for number, rung in enumerate(MEDIAN_RUNGS, 1) if rung >= grace)
    inner = MedianStoppingRule(
        time_attr=TIME_ATTR, metric=METRIC, mode=mode, grace_period=first, min_samples_required=3
    )
    numbers = range(1, len(MEDIAN_RUNGS) + 1)
    return Protecting(inner, "median", protected, numbers), MEDIAN_RUNGS


def _asha(
    grace: float, reduction_factor: int, protected: Collection[str], mode: Mode
) -> tuple[Protecting, tuple[float, ...]]:
    """Tune's successive halving, with its one bracket."""
    rungs = asha_rungs(grace, reduction_factor)
    # Tune decides where its time has grown by the reduction factor.
    times = [reduction_factor**index for index in range(len(rungs))]
    inner: Any = AsyncHyperBandScheduler(  # its types know of Tune's own trials alone
        time_attr=TIME_ATTR,
        metric=METRIC,
        mode=mode,
        max_t=times[-1],
        grace_period=times[0],
        reduction_factor=reduction_factor,
    )

    def remember(row: Mapping[str, Any]) -> None:
        reached = [time for time, rung in zip(times, rungs, strict=True) if _is_at(row, rung)]
        if reached and _is_comparable(row):
            past = _Past(str(row["trial_key"]))
            score = _untied(row[METRIC], past.trial_id)
            # As of a trial that came there and ended: Tune keeps its score at that rung.
            inner.on_trial_add(None, past)
            inner.on_trial_complete(None, past, {TIME_ATTR: reached[-1], METRIC: score})

    return Protecting(inner, "asha", protected, times, remember), rungs


def asha_rungs(grace: float, reduction_factor: int) -> tuple[float, ...]:
    """Shares of progress at which successive halving decides, and the end.

    Each budget is `reduction_factor` times the one before, as in Li et al., "A System for Massively
    Parallel Hyperparameter Tuning" (2020), Section 3: of a fifth and 5 only the fifth.
    """
    rungs: list[float] = []
    while grace < 1:
        rungs.append(grace)
        grace *= reduction_factor
    return (*rungs, 1.0)


def _untied(value: float, key: str) -> float:
    """The score, moved by a billionth that the trial's key decides, the same in every driver."""
    return value + _TIE * int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32


def _is_comparable(result: Mapping[str, Any]) -> bool:
    """Whether a score can be compared: not of a failed trial, not infinite, not NaN.

    Tune stops no trial at a NaN, and an infinite score may make the cutoff of its rung NaN, which
    stops nobody.
    """
    return METRIC in result and math.isfinite(result[METRIC])


def _is_at(row: Mapping[str, Any], rung: float) -> bool:
    """Whether a row is of a trial that reached a rung, whatever rungs its driver had."""
    return float(row["progress"]) >= rung - 1e-9  # as near as `EditLoop.run` stops at it


def _tune_distribution(distribution: Distribution) -> Any:
    """Tune's own form of a distribution, both ends included.

    Of choices the number is drawn: Optuna takes no lists, such as MEMIT's layers.
    """
    if distribution.kind == "categorical":
        return tune.choice(list(range(len(distribution.choices))))
    assert distribution.low is not None
    assert distribution.high is not None
    if distribution.kind == "uniform":
        return tune.uniform(distribution.low, distribution.high)
    if distribution.kind == "loguniform":
        return tune.loguniform(distribution.low, distribution.high)
    low, high = int(distribution.low), int(distribution.high) + 1  # Tune leaves the upper end out
    return tune.randint(low, high) if distribution.kind == "int" else tune.lograndint(low, high)


class PlannedSearch(Searcher):
    """Optuna's suggestions, made into specifications; at most `num_trials` of them.

    Optuna is told how each trial ended: COMPLETE with its score, PRUNED with the score of the rung
    where the scheduler stopped it, or else FAIL. Optuna would count a trial that never ends as bad.
    """

    def __init__(
        self,
        distributions: Mapping[str, Distribution],
        seed: int,
        num_trials: int,
        to_config: Callable[[Mapping[str, Any]], dict[str, Any] | Remembered],
        recall: Callable[[Sequence[Mapping[str, Any]]], None],
        was_stopped: Callable[[str], bool],
        mode: Mode = "max",
        start: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up the search.

        A seeded sampler asks again for what an earlier driver ran, as long as it is told the same
        results: a resumed search walks through the ledger and goes on behind it.

        Args:
            distributions: What the value of each dotted key is drawn from.
            seed: Seed of Optuna's sampler.
            num_trials: Number of suggestions.
            to_config: Makes a trial's config of values, or returns what is known of a settled one.
            recall: Is told the rungs of each settled trial when the sampler suggests it.
            was_stopped: Whether the scheduler stopped the trial of this key.
            mode: Whether the largest or the smallest value is the best.
            start: Values of some keys that the first suggestion has; the sampler draws the others.
        """
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(metric=METRIC, mode=mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        in_tunes_terms = {key: _tune_distribution(each) for key, each in distributions.items()}
        in_optunas_terms = OptunaSearch.convert_search_space(in_tunes_terms)
        self._inner = OptunaSearch(in_optunas_terms, metric=METRIC, mode=mode, seed=seed)
        if start:
            self.study.enqueue_trial({key: distributions[key].draw(start[key]) for key in start})
        self._distributions = distributions
        self._left = num_trials
        self._running: dict[str, tuple[str, str]] = {}  # Tune's trial id -> Optuna's name, key
        self.keys: list[str] = []  # of all trials that are to run
        self._to_config = to_config
        self._recall = recall
        self._was_stopped = was_stopped

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore that this project never asks of it."""
        return {}

    @property
    def study(self) -> Any:
        """Optuna's study."""
        return self._inner._ot_study  # Ray has no public way to it

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config; FINISHED when all were suggested."""
        while self._left > 0:
            # A name of its own for each: asked twice under one, Optuna repeats what it said.
            name = f"{trial_id}/{self._left}"
            values = self._inner.suggest(name)
            if values is None:
                return None
            self._left -= 1
            outcome = self._to_config(
                {key: each.value(values[key]) for key, each in self._distributions.items()}
            )
            if isinstance(outcome, dict):
                key = str(outcome["trial_key"])
                self._running[trial_id] = (name, key)
                self.keys.append(key)
                return outcome
            self._recall(outcome.rungs)
            self._tell(name, outcome.value, outcome.stopped_at)
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An intermediate result."""
        if _is_comparable(result):
            self._report(self._running[trial_id][0], result[METRIC], result[TIME_ATTR])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial's last result."""
        name, key = self._running.pop(trial_id)
        if error or result is None or METRIC not in result:
            self._tell(name, None, None)
        else:
            rung = result[TIME_ATTR] if self._was_stopped(key) else None
            self._tell(name, result[METRIC], rung)

    def tell_lost(self) -> None:
        """Tell Optuna, when no trial runs any more, that those without an end have failed."""
        for trial_id in list(self._running):
            self.on_trial_complete(trial_id, error=True)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a resumed search replays the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resumed search replays the ledger."""

    def _report(self, name: str, value: float, rung: int) -> None:
        self._inner.on_trial_result(name, {METRIC: value, TRAINING_ITERATION: rung})

    def _tell(self, name: str, value: float | None, stopped_at: int | None) -> None:
        """Tell Optuna how a trial ended; a score that is not finite is none."""
        if value is None or not math.isfinite(value):
            self._inner.on_trial_complete(name, None, error=True)
        elif stopped_at is None:
            self._inner.on_trial_complete(name, {METRIC: value})
        else:
            self._report(name, value, stopped_at)
            self._inner.on_trial_complete(name, None)  # pruned: one without a value, and no error
