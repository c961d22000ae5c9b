"""The 95% intervals of a mean: over seeds where there are enough, else over subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from analysis.metrics import AVERAGED

CONFIDENCE = 0.95
SEEDS_FOR_T = 3  # fewer seeds: bootstrap over subjects (house rule)
_RESAMPLES = 2000
_BOOTSTRAP_SEED = 0  # an interval must not change from one printing to the next

Interval: TypeAlias = tuple[float, float]


def interval_over_seeds(values: Sequence[float]) -> Interval | None:
    """Student's t interval (95%) of the mean of `values`, or None for fewer than three."""
    if len(values) < SEEDS_FOR_T:
        return None
    # Differences from the first: those of equal values are exactly zero. `statistics.stdev`
    # computes with fractions, and takes a third of a table of thousands of arms.
    count, apart = len(values), [value - values[0] for value in values]
    centre = math.fsum(apart) / count
    variance = math.fsum((each - centre) ** 2 for each in apart) / (count - 1)
    error = math.sqrt(variance / count)
    half = _students_t(count - 1) * error
    mean = math.fsum(values) / count
    return mean - half, mean + half


@cache
def _students_t(freedom: int) -> float:
    """Half a 95% interval in standard errors."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def intervals_over_subjects(by_seed: Sequence[pd.DataFrame], measure: str) -> dict[str, Interval]:
    """Percentile bootstrap (95%) over subjects, by score, `average` included.

    All questions about one subject are drawn together, in whichever seeds they were asked, and the
    subjects of all seeds are drawn from one pool, so that differences between seeds widen the
    interval. A question weighs one over the number of its kind in its seed: the statistic is then,
    as of what is printed, the mean over seeds of each one's mean over questions; a seed without any
    does not count. A score has no interval when fewer than two subjects have questions of its kind.

    Args:
        by_seed: Per-record results of each seed of one arm, as `runs.read_records` returns them;
            one at least.
        measure: Column to average: token, token_no_blank or exact; another measure has no interval.
    """
    if any(measure not in frame for frame in by_seed):
        return {}
    frames = [frame[["subject", "score", measure]] for frame in by_seed]
    records = pd.concat(frames, keys=range(len(frames)), names=["seed"])
    if records[measure].isna().all():
        return {}
    grouped = records.groupby(["subject", "score", "seed"])[measure]
    sums = grouped.sum().unstack(["score", "seed"], fill_value=0.0)
    counts = grouped.count().unstack(["score", "seed"], fill_value=0)
    if len(sums) < 2:
        return {}
    times_drawn = _times_drawn(len(sums))
    means: dict[str, np.ndarray[Any, Any]] = {}
    for score in dict.fromkeys(sums.columns.get_level_values("score")):
        asked = counts[score].to_numpy(float)
        if (asked.sum(1) > 0).sum() < 2:
            continue
        weights = 1 / np.maximum(asked.sum(0), 1)  # of a question of each seed
        total = times_drawn @ (sums[score].to_numpy(float) @ weights)
        weight = times_drawn @ (asked @ weights)
        # A resample may hold no question of a rare kind: it has no mean and is left out below.
        means[str(score)] = np.divide(
            total, weight, out=np.full(_RESAMPLES, np.nan), where=weight > 0
        )
    if set(AVERAGED) <= set(means):
        means["average"] = np.mean([means[name] for name in AVERAGED], axis=0)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return {name: _pair(np.nanquantile(values, tails)) for name, values in means.items()}


def interval_of_change(by_trial: Sequence[pd.DataFrame]) -> Interval | None:
    """Percentile bootstrap (95%) over questions of how the score of one task changed.

    A question's answers before and after are drawn together, in all trials and after all batches at
    once, as all of them ask the same questions: the difference is paired. The statistic is the mean
    over trials and batches of what is printed, the weighted mean of the values (of losses: its
    exponential) less the same before.

    Args:
        by_trial: The task's lines of each seed's per-record results, as `runs.read_records` returns
            those of the moment `ability`.

    Returns:
        None without a trial, or with fewer than two questions.
    """
    by_length: dict[int, list[pd.DataFrame]] = {}
    for frame in by_trial:
        for _, part in frame.sort_values("record_id").groupby("batch"):
            by_length.setdefault(len(part), []).append(part)
    if not by_length or min(by_length) < 2:
        return None
    changes = np.hstack([_drawn_changes(parts) for parts in by_length.values()])
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return _pair(np.nanquantile(changes.mean(1), tails))


def _drawn_changes(parts: Sequence[pd.DataFrame]) -> np.ndarray[Any, Any]:
    """How a task's score changed in each resample of its questions, (resamples, parts).

    NaN where no question of a resample counts.
    """
    columns = [(part, suffix) for suffix in ("", "_before") for part in parts]
    weight = np.stack([part[f"weight{suffix}"].to_numpy(float) for part, suffix in columns], 1)
    value = np.stack([part[f"value{suffix}"].to_numpy(float) for part, suffix in columns], 1)
    # In one product: what it reads of the resamples is megabytes.
    drawn = _times_drawn(len(weight)) @ np.hstack([value * weight, weight])
    total, counted = np.hsplit(drawn, 2)
    mean: np.ndarray[Any, Any] = np.divide(
        total, counted, out=np.full_like(total, np.nan), where=counted > 0
    )
    is_loss = bool(parts[0]["is_perplexity"].iloc[0])
    after, before = np.hsplit(np.exp(mean) if is_loss else mean, 2)
    return np.asarray(after - before)


@lru_cache(maxsize=4)  # megabytes each; the same for all scores and arms of one protocol
def _times_drawn(num_subjects: int) -> np.ndarray[Any, Any]:
    """How often each resample holds each subject, (resamples, subjects)."""
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    drawn = generator.integers(0, num_subjects, (_RESAMPLES, num_subjects))
    drawn += num_subjects * np.arange(_RESAMPLES)[:, None]
    counted = np.bincount(drawn.ravel(), minlength=drawn.size)
    return counted.reshape(drawn.shape).astype(float)


def _pair(bounds: np.ndarray[Any, Any]) -> Interval:
    low, high = bounds
    return float(low), float(high)
