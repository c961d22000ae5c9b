"""What `make accept` holds a value to, and which."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binom

from tests.acceptance import EDITS, FALSE_ALARM, Check, checks, lowest_by_chance

SCORE = Check("score", "method=lora", "reliability.token.final", on_tune=0.8)


def test_a_score_is_held_to_what_other_edits_reach_by_chance() -> None:
    assert SCORE.bound == lowest_by_chance(0.8)
    assert SCORE.is_met(lowest_by_chance(0.8)) is True
    assert SCORE.is_met(lowest_by_chance(0.8) - 1 / EDITS) is False


def test_the_bound_lies_below_that_of_a_rate_known_exactly() -> None:
    """A binomial sample of the true rate; ours is a sample too, so its bound is lower."""
    for seen in (0.5, 0.8, 0.95):
        known = binom.ppf(FALSE_ALARM, EDITS, seen) / EDITS
        assert known - 0.15 < lowest_by_chance(seen) < known


def test_two_samples_of_one_rate_miss_as_seldom_as_said() -> None:
    """Summed over all pairs of samples, for rates that the backbones show."""
    counts = range(EDITS + 1)
    bounds = [round(lowest_by_chance(seen / EDITS) * EDITS) for seen in counts]
    for rate in (0.5, 0.7, 0.9):
        chance = [float(binom.pmf(seen, EDITS, rate)) for seen in counts]
        missed = sum(chance[seen] * binom.cdf(bounds[seen] - 1, EDITS, rate) for seen in counts)
        assert 0 < missed <= FALSE_ALARM


@pytest.mark.parametrize(("observed", "met"), [(0.16, True), (0.14, False)])
def test_an_effect_is_held_to_half_of_what_was_seen(observed: float, met: bool) -> None:
    effect = Check("effect", "method=lora", "n", on_tune=0.30, less_arm="method=ft_m")
    assert effect.bound == 0.15
    assert effect.is_met(observed) is met


def test_a_stated_level_stands_and_a_check_without_one_is_only_shown() -> None:
    within = Check("floor", "method=grace", "n", "within", 0.08, on_tune=0.5)
    assert (within.bound, within.is_met(-0.07), within.is_met(-0.09)) == (0.08, True, False)
    shown = Check("shown", "method=grace", "n")
    assert shown.bound is None
    assert shown.is_met(0.0) is None


def test_every_effect_that_is_demanded_was_seen() -> None:
    """An effect seen at nothing or the wrong way round would be demanded of nobody."""
    for check in checks(Path("zsre_eval.jsonl")):
        if check.demand is None and check.bound is not None:
            assert 0 < check.bound < 1, check
