"""How scores vary over many arms: spreads, correlations and the filter, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from analysis.aggregate import Estimate
from analysis.published.variation import more_spread, rank_correlation, share_passing, spread
from tests.unit.comparisons import arm


def test_spread_when_few_orders_then_further_ones_may_reach_one() -> None:
    found = spread([0.4, 0.9, 0.6])
    assert (found.mean, found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5), 1.0)


def test_spread_when_as_many_orders_as_published_then_it_is_what_was_seen() -> None:
    found = spread([0.4, 0.9, 0.6], enough=3)
    assert found.high == found.low == pytest.approx(0.5)


def test_rank_correlation_when_one_pair_of_twelve_is_swapped_then_by_the_formulas() -> None:
    ranks = [*range(10), 11, 10]
    found = rank_correlation([(float(n), float(rank)) for n, rank in enumerate(ranks)])
    assert found is not None
    value = 1 - 6 * 2 / (12 * 143)  # 1 - 6 sum d^2 / (n (n^2 - 1))
    assert found.mean == pytest.approx(value)
    # 1.959964 standard errors, each the square root of (1 + r^2 / 2) / (12 - 3)
    half = 1.959964 * math.sqrt((1 + value**2 / 2) / 9)
    assert found.low == pytest.approx(math.tanh(math.atanh(value) - half), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(math.atanh(value) + half), abs=1e-6)


def test_rank_correlation_when_too_few_or_constant_then_no_interval_or_nothing() -> None:
    few = rank_correlation([(float(n), float(n)) for n in range(9)])
    assert few is not None
    assert (few.mean, few.low, few.high) == (pytest.approx(1.0), None, None)
    assert rank_correlation([(float(n), 0.5) for n in range(12)]) is None


def test_rank_correlation_when_one_side_is_turned_then_so_is_the_interval() -> None:
    pairs = [(float(n), float((5 * n) % 13)) for n in range(13)]
    there, back = rank_correlation(pairs), rank_correlation([(-x, y) for x, y in pairs])
    assert there is not None
    assert back is not None
    assert there.low is not None
    assert back.high == pytest.approx(-there.low)


def test_more_spread_when_both_are_alike_then_the_interval_reaches_both_sides() -> None:
    values = [0.1 * n for n in range(10)]
    found = more_spread(values, [value + 0.05 for value in values])
    assert found is not None
    assert found.mean == pytest.approx(0.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < -0.02 < 0.02 < found.high


def test_more_spread_when_few_values_then_no_interval_and_of_one_nothing() -> None:
    few = more_spread([0.0, 1.0], [0.5, 0.5])
    assert few is not None
    assert (few.mean, few.low) == (pytest.approx(math.sqrt(0.5)), None)
    assert more_spread([0.5], [0.1, 0.9]) is None


def test_share_passing_when_intervals_reach_both_sides_then_arms_may_pass() -> None:
    def scores(low: float, high: float) -> dict[str, Estimate]:
        middle = Estimate((low + high) / 2, 3, low, high, "t")
        untouched = Estimate(0.95, 3, 0.9, 1.0, "t")
        return {"reliability": middle, "generality": middle, "locality": untouched}

    found = [scores(0.2, 0.4), scores(0.05, 0.4), scores(0.0, 0.05), {}]
    arms = [replace(arm(str(n)), scores=each) for n, each in enumerate(found)]
    made = share_passing(arms, found)
    # The first must pass, the second and the unscored one may, the third fails; by their means
    # the first two do.
    assert (made.mean, made.low, made.high) == (0.5, 0.25, 0.75)
