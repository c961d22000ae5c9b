"""How scores vary over many arms, such as the shuffles of one set of edits, each with its interval.

Values are one number per arm. An `Estimate` made here counts arms where others count seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, stdev

import numpy as np

from analysis.aggregate import Arm, Estimate
from analysis.intervals import CONFIDENCE
from analysis.published.compare import FILTER, passes, passes_filter, spearman

ORDER = "protocol.order_seed"  # the swept key in which shuffles of the same edits differ
PUBLISHED_ORDERS = 100  # LEMoE, section 3.3: "conducted 100 times", for each number of edits
LEAST_ARMS = 10  # fewer: no interval; neither ranks nor resamples say much of so few
_RESAMPLES = 2000
_SEED = 0  # an interval must not change from one printing to the next


def spread(shares: Sequence[float], enough: int = PUBLISHED_ORDERS) -> Estimate:
    """The highest less the lowest of `shares`, and where the spread of `enough` of them may lie.

    What was seen is the least that more arms can show: with fewer than `enough` the interval ends
    at 1, the most that shares can differ; otherwise it is a single point.

    Args:
        shares: Fractions in [0, 1], one at least.
        enough: Number of arms from which on the spread is that which was published.
    """
    seen = max(shares) - min(shares)
    most = seen if len(shares) >= enough else 1.0
    return Estimate(seen, len(shares), seen, most, "bounds")


def more_spread(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """The standard deviation of `first` less that of `second`, with a bootstrap over both (95%).

    Standard deviations, not ranges: those of resamples lie about that of the sample, while a
    resample's range never exceeds it. None for fewer than two values in either, no interval for
    fewer than `LEAST_ARMS`.
    """
    fewest = min(len(first), len(second))
    if fewest < 2:
        return None
    found = Estimate(stdev(first) - stdev(second), fewest)
    if fewest < LEAST_ARMS:
        return found
    generator = np.random.default_rng(_SEED)
    drawn = [
        generator.choice(values, (_RESAMPLES, len(values))).std(1, ddof=1)
        for values in map(np.asarray, (first, second))
    ]
    low, high = np.quantile(drawn[0] - drawn[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(found.mean, fewest, float(low), float(high), "bootstrap")


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    """Spearman's rank correlation with its 95% interval; None if it is not defined.

    The interval is Fisher's: atanh(r) has standard error sqrt((1 + r^2 / 2) / (n - 3)) for ranks
    (Bonett and Wright, Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations, Psychometrika 65, 2000). There is none for fewer than `LEAST_ARMS` pairs.
    """
    found = spearman(pairs)
    if found.value is None:
        return None
    value, count = found.value, found.num_pairs
    if count < LEAST_ARMS:
        return Estimate(value, count)
    error = math.sqrt((1 + value**2 / 2) / (count - 3))
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
    # Of a perfect order atanh is infinite, and so are both ends before tanh.
    centre = math.copysign(math.inf, value) if abs(value) >= 1 else math.atanh(value)
    return Estimate(value, count, math.tanh(centre - half), math.tanh(centre + half), "fisher_z")


def share_passing(arms: Sequence[Arm], scores: Sequence[Mapping[str, Estimate]]) -> Estimate:
    """Share of arms that pass the filter of LEMoE Table 9, between what must and what may pass.

    An arm must pass if its three intervals lie where the filter wants them, and may unless one of
    them lies below. An arm without a mean or an interval may.

    Args:
        arms: One at least.
        scores: The scores of each arm, with their intervals where there are any.
    """
    sure = sum(all(_is_above(found.get(name), name) for name in FILTER) for found in scores)
    failing = sum(any(_is_below(found.get(name), name) for name in FILTER) for found in scores)
    passing = sum(passes_filter(arm) is True for arm in arms)
    count = len(arms)
    return Estimate(passing / count, count, sure / count, 1 - failing / count, "bounds")


def _is_above(found: Estimate | None, name: str) -> bool:
    return found is not None and found.low is not None and passes(name, found.low)


def _is_below(found: Estimate | None, name: str) -> bool:
    return found is not None and found.high is not None and not passes(name, found.high)
