"""Comparisons of arms: which are paired, what the difference is, and what it says; by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from analysis.aggregate import Arm, Estimate, RecordReader, estimate
from analysis.published.claim_checks import (
    Finding,
    Verdict,
    combined,
    expanded,
    find,
    judge,
    left_out,
    verdict_on,
)
from analysis.published.pairing import pairs
from tests.unit.comparisons import arm, check, section


@pytest.mark.parametrize(
    ("low", "high", "relation", "by", "expected"),
    [
        (0.01, 0.03, "above", 0.0, "confirmed"),
        (-0.01, 0.03, "above", 0.0, "undecided"),
        (-0.03, -0.01, "above", 0.0, "refuted"),
        (0.0, 0.0, "above", 0.0, "undecided"),  # equal to the last digit: nothing lies above
        (0.05, 0.30, "above", 0.1, "undecided"),
        (0.05, 0.09, "above", 0.1, "refuted"),  # above, but not by so much
        (0.0, 0.0, "within", 0.01, "confirmed"),
        (-0.01, 0.01, "within", 0.01, "confirmed"),
        (-0.02, 0.0, "within", 0.01, "undecided"),
        (0.02, 0.05, "within", 0.01, "refuted"),
        (-0.05, -0.02, "within", 0.01, "refuted"),
        (0.25, 1.0, "spreads", 0.2, "confirmed"),
        (0.15, 1.0, "spreads", 0.2, "undecided"),  # further orders may spread more
        (0.15, 0.15, "spreads", 0.2, "refuted"),
        (0.1, 0.8, "rises_with", 0.0, "confirmed"),
        (0.1, 0.8, "falls_with", 0.0, "refuted"),
        (-0.8, -0.1, "falls_with", 0.0, "confirmed"),
        (-0.1, 0.2, "falls_with", 0.0, "undecided"),
        (0.0, 0.0, "never_passes", 0.0, "confirmed"),
        (0.0, 0.5, "never_passes", 0.0, "undecided"),
        (0.5, 1.0, "never_passes", 0.0, "refuted"),
    ],
)
def test_judge_when_the_interval_lies_there_then_that_verdict(
    low: float, high: float, relation: str, by: float, expected: Verdict
) -> None:
    assert judge(Estimate((low + high) / 2, 3, low, high, "t"), relation, by) == expected


def test_find_when_one_gains_more_in_a_score_then_the_gains_are_compared() -> None:
    """Gains .3, .4, .5 in reliability and .1, .1, .1 in the other: .2, .3, .4, and .3 on average.

    s = .1 and t(.975, 2) = 4.3027, so that half the interval is .2484.
    """
    other = "within_batch_similarity"

    def two(name: str, values: Sequence[float], others: Sequence[float]) -> Arm:
        made = arm(name, *values)
        return replace(made, scores={**made.scores, other: estimate(others)})

    first = two("full", (0.8, 0.9, 1.0), (0.3, 0.3, 0.3))
    second = two("less", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    wanted = check(
        {"arm": "full"}, {"arm": "less"}, second_score=other, relation="gains_more", by=0.0
    )
    found = find(wanted, section(first, second), None)
    assert found.verdict == "confirmed"
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.3)
    assert found.difference.low == pytest.approx(0.3 - 0.248414, abs=1e-6)
    swapped = replace(wanted, score=other, second_score="reliability")
    assert find(swapped, section(first, second), None).verdict == "refuted"
    lacking = find(wanted, section(first, arm("less", 0.5, 0.5, 0.5)), None)
    assert (lacking.verdict, lacking.why) == ("undecided", f"{other} was not measured")


def test_judge_when_there_is_no_interval_then_nothing_is_decided() -> None:
    assert judge(Estimate(0.9, 1), "above", 0.0) == "undecided"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["confirmed", "confirmed"], "confirmed"),
        (["confirmed", "undecided"], "undecided"),
        (["confirmed", "not run"], "undecided"),
        (["refuted", "not run"], "refuted"),
        (["not run", "not run"], "not run"),
    ],
)
def test_together_when_one_is_refuted_all_is(verdicts: list[Verdict], expected: Verdict) -> None:
    assert combined(verdicts) == expected


def test_find_when_three_seeds_then_differences_are_taken_within_a_seed() -> None:
    # .1, .2, .3 apart, although the arms' own values overlap widely
    first, second = arm("full", 0.3, 0.6, 0.9), arm("less", 0.2, 0.4, 0.6)
    made = find(check({"arm": "full"}, {"arm": "less"}), section(first, second), None)
    assert made.difference is not None
    assert made.difference.mean == pytest.approx(0.2)
    # t of .975 with 2 degrees is 4.3027; standard error .1 / sqrt 3
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (made.difference.low, made.difference.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert (made.verdict, made.num_pairs) == ("undecided", 1)


def test_find_when_a_seed_is_missing_in_one_arm_then_the_shared_ones_count() -> None:
    first, second = arm("full", 0.5, 0.7, 0.6, 1.0), arm("less", 0.3, 0.5, 0.4)
    made = find(check({"arm": "full"}, {"arm": "less"}), section(first, second), None)
    assert made.difference is not None
    assert made.difference.by_seed == pytest.approx((0.2, 0.2, 0.2))
    assert made.verdict == "confirmed"


def test_find_when_fewer_seeds_then_subjects_are_drawn_with_both_arms_answers() -> None:
    # Four subjects, each answered by `full` and by `less` not: every resample has difference 1.
    asked = {
        name: answers(*[(f"s{number}", value) for number in range(4)])
        for name, value in (("full/0", 1.0), ("less/0", 0.0))
    }
    arms = section(arm("full", 1.0), arm("less", 0.0))
    made = find(
        check({"arm": "full"}, {"arm": "less"}), arms, lambda address, _: asked.get(address)
    )
    assert made.difference is not None
    assert (made.difference.low, made.difference.high) == (1.0, 1.0)
    assert (made.difference.source, made.verdict) == ("bootstrap", "confirmed")


def test_find_when_fewer_seeds_and_other_questions_then_no_interval() -> None:
    asked = {"full/0": answers(("s0", 1.0), ("s1", 1.0)), "less/0": answers(("s0", 0.0))}
    arms = section(arm("full", 1.0), arm("less", 0.0))
    made = find(
        check({"arm": "full"}, {"arm": "less"}), arms, lambda address, _: asked.get(address)
    )
    assert made.difference is not None
    assert (made.difference.low, made.verdict) == (None, "undecided")


@pytest.mark.parametrize(
    ("relation", "by", "verdict"),
    [
        ("reaches", 0.7, "confirmed"),  # .8 +- .08 over the seeds: from .72 to .88
        ("reaches", 0.9, "refuted"),
        ("reaches", 0.8, "undecided"),
        ("stays_below", 0.9, "confirmed"),
        ("stays_below", 0.7, "refuted"),
    ],
)
def test_find_when_one_arm_is_held_to_a_number_then_its_interval_decides(
    relation: str, by: float, verdict: str
) -> None:
    half = 0.08 / 4.302653 * math.sqrt(3)  # Student's t of two degrees of freedom
    wanted = check({"arm": "full"}, {"arm": "full"}, relation=relation, by=by)
    made = find(wanted, section(arm("full", 0.8 - half, 0.8, 0.8 + half)), None)
    assert made.difference is not None
    assert made.difference.low == pytest.approx(0.72)
    assert made.verdict == verdict


def test_find_when_an_arm_failed_or_is_absent_then_it_says_so() -> None:
    arms = section(arm("full", 0.5), arm("less", state="failed 1/1"))
    lost = find(check({"arm": "full"}, {"arm": "less"}), arms, None)
    assert (lost.verdict, lost.why) == ("undecided", "less failed 1/1")
    made = find(check({"arm": "full"}, {"arm": "other"}), arms, None)
    assert (made.verdict, made.why) == ("not run", "no such arms in the store")


@pytest.mark.parametrize(
    ("needed", "verdict", "absent"), [("always", "undecided", 0), ("if_run", "confirmed", 1)]
)
def test_verdict_when_a_comparison_was_not_run_then_it_counts_if_it_is_needed(
    needed: str, verdict: Verdict, absent: int
) -> None:
    ran = Finding(check({"arm": "a"}, {"arm": "b"}), "confirmed")
    lacking = Finding(check({"arm": "a"}, {"arm": "c"}, needed=needed), "not run")
    assert verdict_on([ran, lacking]) == verdict
    assert len(left_out([ran, lacking])) == absent
    assert verdict_on([lacking]) == "not run"


def test_verdict_when_a_baseline_ran_and_failed_then_it_is_not_left_out() -> None:
    arms = section(
        arm("own", 0.9, 0.9, 0.9, method="own", swept={"method": "own"}),
        arm("good", 0.5, 0.5, 0.5, method="good", swept={"method": "good"}),
        arm("lost", method="lost", swept={"method": "lost"}, state="failed 3/3"),
    )
    found = [
        find(check({"method": "own"}, {"method": name}, needed="if_run"), arms, None)
        for name in ("good", "lost", "absent")
    ]
    assert [each.verdict for each in found] == ["confirmed", "undecided", "not run"]
    assert verdict_on(found) == "undecided"
    assert left_out(found) == (found[2],)
    assert verdict_on([found[0], found[2]]) == "confirmed"


def test_find_when_a_score_was_not_measured_then_undecided_and_it_says_so() -> None:
    arms = section(arm("full", 0.5), arm("less", 0.4))
    wanted = check({"arm": "full"}, {"arm": "less"}, score="average", second_score="average")
    made = find(wanted, arms, None)
    assert (made.verdict, made.why) == ("undecided", "average was not measured")


def test_find_when_orders_are_correlated_then_ranks_and_fishers_interval_decide() -> None:
    # Twelve orders, reliability rising with similarity throughout: r = 1, and so is its interval.
    orders = [order(n, 0.5 + n / 100, similarity=n) for n in range(12)]
    wanted = check({"method": "memoe_v1"}, {"method": "memoe_v1"}, relation="rises_with")
    wanted = replace(wanted, second_score="within_batch_similarity")
    made = find(wanted, section(*orders), None)
    assert made.difference is not None
    assert (made.difference.mean, made.difference.low) == (pytest.approx(1.0), 1.0)
    assert (made.verdict, made.num_arms, made.difference.num_seeds) == ("confirmed", 12, 1)
    assert find(wanted, section(*orders[:9]), None).verdict == "undecided"
    falling = replace(wanted, relation="falls_with")
    assert find(falling, section(*orders), None).verdict == "refuted"


def test_find_when_an_order_failed_then_nothing_is_said_of_the_others() -> None:
    orders = [order(0, 0.2), order(1, 0.9), order(2, state="failed 1/1")]
    wanted = check({"method": "memoe_v1"}, {"method": "memoe_v1"}, relation="spreads", by=0.2)
    lost = find(wanted, section(*orders), None)
    assert (lost.verdict, lost.why) == ("undecided", "order 2 failed 1/1")
    made = find(wanted, section(*orders[:2]), None)
    assert made.difference is not None
    assert (made.difference.mean, made.verdict) == (pytest.approx(0.7), "confirmed")


def test_find_when_two_groups_of_orders_then_their_deviations_are_compared() -> None:
    # A deviation of about .26 in the first, of .026 in the second: no resample turns them round.
    wide = [order(n, 0.5 + 0.25 * (-1) ** n, method="wide") for n in range(12)]
    narrow = [order(n, 0.5 + 0.025 * (-1) ** n, method="narrow") for n in range(12)]
    wanted = check({"method": "wide"}, {"method": "narrow"}, relation="spreads_more")
    made = find(wanted, section(*wide, *narrow), None)
    assert made.difference is not None
    # Twelve values at distance d from their mean: d sqrt(12 / 11)
    assert made.difference.mean == pytest.approx(0.225 * math.sqrt(12 / 11))
    assert (made.verdict, made.num_arms) == ("confirmed", 24)


@pytest.mark.parametrize("relation", ["spreads", "spreads_more", "rises_with", "falls_with"])
def test_find_when_orders_differ_in_more_than_order_then_nothing_is_said_of_them(
    relation: str,
) -> None:
    # Each method moves by .11 over its orders and rises with similarity; both together by .51.
    strong = [order(n, 0.8 + n / 100, method="strong", similarity=n) for n in range(12)]
    weak = [order(n, 0.4 + n / 100, method="weak", similarity=n) for n in range(12)]
    twenty = {"protocol.num_edits": "20"}
    wanted = check(twenty, twenty, relation=relation, by=0.2 if relation == "spreads" else 0.0)
    if relation in ("rises_with", "falls_with"):
        wanted = replace(wanted, second_score="within_batch_similarity")
    made = find(wanted, section(*strong, *weak), None)
    assert made.difference is None
    assert (made.verdict, made.why) == (
        "undecided",
        "the arms differ in method, and not in order alone",
    )


def test_find_when_the_method_is_named_then_its_orders_alone_are_compared() -> None:
    strong = [order(n, 0.8 + n / 100, method="strong", similarity=n) for n in range(12)]
    weak = [order(n, 0.4 - n / 100, method="weak", similarity=n) for n in range(12)]
    twenty, of_weak = {"protocol.num_edits": "20"}, {"method": "weak"}
    spread = check(twenty, twenty, where=of_weak, relation="spreads", by=0.2)
    made = find(spread, section(*strong, *weak), None)
    assert made.difference is not None
    assert made.difference.mean == pytest.approx(0.11)
    assert made.num_arms == 12
    falls = replace(spread, relation="falls_with", second_score="within_batch_similarity", by=0.0)
    assert find(falls, section(*strong, *weak), None).verdict == "confirmed"


def order(seed: int, *values: float, **more: Any) -> Arm:
    """One order of the same twenty edits."""
    swept = {"protocol.num_edits": 20, "protocol.order_seed": seed}
    return arm(f"order {seed}", *values, swept=swept, **more)


def test_find_when_no_arm_may_pass_the_filter_then_each_must_fail_by_an_interval() -> None:
    def scored(name: str, reliability: Sequence[float]) -> Arm:
        made = arm(name, *reliability)
        others = {score: estimate([0.9] * 3) for score in ("generality", "locality")}
        return replace(made, scores={**made.scores, **others})

    weak = scored("weak", (0.0, 0.0, 0.0))
    loose = scored("loose", (0.0, 0.05, 0.1))  # .05 +- .12: it may pass
    strong = scored("strong", (0.8, 0.8, 0.8))
    cut = arm("cut", state="pruned 1/1")
    wanted = check({"method": "memoe_v1"}, {"method": "memoe_v1"}, relation="never_passes")

    def verdict(*arms: Arm) -> Verdict:
        return find(wanted, section(*arms), None).verdict

    assert verdict(weak, weak) == "confirmed"
    assert verdict(weak, loose) == "undecided"
    assert verdict(weak, cut) == "undecided"
    assert verdict(weak, strong) == "refuted"
    assert verdict(cut) == "undecided"


def test_find_when_one_arm_has_few_seeds_then_its_subjects_are_drawn() -> None:
    # All four subjects answered: every resample has .8 at least.
    asked = {"full/0": answers(*[(f"s{number}", 1.0) for number in range(4)])}
    wanted = check({"arm": "full"}, {"arm": "full"}, relation="reaches", by=0.8)
    made = find(wanted, section(arm("full", 1.0)), reader(asked))
    assert made.difference is not None
    assert (made.difference.low, made.verdict) == (1.0, "confirmed")
    assert find(wanted, section(arm("full", 1.0)), None).verdict == "undecided"


def test_expanded_when_each_value_is_asked_for_then_those_with_both_arms_are_compared() -> None:
    cells = [
        arm(f"{experts} {top}", 0.5, swept={"method.num_experts": experts, "method.top_k": top})
        for experts, top in ((1, 1), (10, 1), (10, 2), (2, 1), (2, 2))
    ]
    wanted = check(
        {"method.top_k": "1"}, {"method.top_k": "2"}, where={"method.num_experts": "each"}
    )
    made = expanded(wanted, cells)
    assert [one.where for one in made] == [
        {"method.num_experts": "2"},
        {"method.num_experts": "10"},
    ]
    assert expanded(wanted, cells[:2]) == (wanted,)  # one expert has no top-2


def reader(asked: Mapping[str, pd.DataFrame]) -> RecordReader:
    """Reads what was asked by its address."""
    return lambda address, dataset: asked.get(address)


def answers(*found: tuple[str, float]) -> pd.DataFrame:
    lines = [(who, "reliability", who, f"Who is {who}?", value) for who, value in found]
    return pd.DataFrame(lines, columns=["record_id", "score", "subject", "prompt", "token"])


def test_pairs_when_other_keys_vary_then_arms_of_the_same_rest_meet() -> None:
    cells = [
        arm(f"{rank} {top}", 0.5, swept={"method.lora_rank": rank, "method.top_k": top})
        for rank in (1, 64)
        for top in (1, 5)
    ]
    found = pairs(check({"method.lora_rank": "64"}, {"method.lora_rank": "1"}), cells)
    assert [(one.name, other.name) for one, other in found] == [("64 1", "1 1"), ("64 5", "1 5")]
    only = check({"method.lora_rank": "64"}, {"method.lora_rank": "1"}, where={"method.top_k": "5"})
    assert [one.name for one, _ in pairs(only, cells)] == ["64 5"]


def test_pairs_when_arms_stand_for_published_values_then_those_are_named() -> None:
    low = arm("low", 0.5, swept={"method.edit_layer": 9}, published={"method.edit_layer": [18]})
    top = arm("top", 0.5, swept={"method.edit_layer": 15}, published={"method.edit_layer": [30]})
    named = check({"method.edit_layer": "30"}, {"method.edit_layer": "18"})
    assert pairs(named, [low, top]) == ((top, low),)
    assert pairs(check({"method.edit_layer": "15"}, {"method.edit_layer": "9"}), [low, top]) == ()


def test_pairs_when_a_layer_is_of_another_backbone_s_own_then_it_is_no_published_one() -> None:
    stands = {"published": {"method.edit_layer": [16]}, "num_layers": 30}
    published = arm("layer 16", 0.5, swept={"method.edit_layer": 15}, **stands)
    low = {"published": {"method.edit_layer": [4]}, "num_layers": 30}
    first = arm("layer 4", 0.5, swept={"method.edit_layer": 4}, **low)
    own = arm("own 16", 0.9, swept={"method.edit_layer": 16}, num_layers=30)
    named = check({"method.edit_layer": "16"}, {"method.edit_layer": "4"})
    assert pairs(named, [published, first, own]) == ((published, first),)
    same_depth = arm("own 16", 0.9, swept={"method.edit_layer": 16})  # 16 is 16 there
    assert (same_depth, first) in pairs(named, [same_depth, first])


def test_pairs_when_one_arm_stands_for_both_sides_then_it_is_not_compared_with_itself() -> None:
    both = arm(
        "both", 0.5, swept={"method.edit_layer": 3}, published={"method.edit_layer": [12, 16]}
    )
    assert pairs(check({"method.edit_layer": "16"}, {"method.edit_layer": "12"}), [both]) == ()


def test_pairs_when_arms_are_named_then_what_follows_from_the_name_need_not_agree() -> None:
    full = arm("full", 0.5, swept={"arm": "full", "protocol.order": "kmeans"})
    given = arm("given", 0.5, swept={"arm": "given", "protocol.order": "given"})
    assert pairs(check({"arm": "full"}, {"arm": "given"}), [full, given]) == ((full, given),)
