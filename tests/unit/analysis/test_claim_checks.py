"""Comparisons of arms: which are paired, what the difference is, and what it says; by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.aggregate import Arm, Estimate, RecordReader, Section, estimate
from analysis.errors import PaperNumbersError
from analysis.published.claim_checks import (
    Check,
    Verdict,
    combined,
    find,
    judge,
    load_checks,
    load_claims,
    pairs,
)
from orchestrator.planning import plan
from orchestrator.settings import loading as config

ROOT = Path(__file__).resolve().parents[3]
HEADER = "claim_id,ablation,where,first,second,score,second_score,relation,by\n"


def arm(name: str, *values: float, **more: Any) -> Arm:
    """An arm with these reliabilities for seeds 0, 1, ..."""
    swept = more.pop("swept", {"arm": name})
    return Arm(
        name=name,
        method=more.pop("method", "memoe_v1"),
        ablation="a",
        swept=swept,
        published=more.pop("published", {}),
        protocol={},
        seeds=tuple(range(len(values))),
        num_layers=16,
        hidden_size=128,
        state=more.pop("state", ""),
        scores={"reliability": estimate(values)} if values else {},
        before={},
        errors=(),
        context={"dataset": "facts"},
        records=tuple(f"{name}/{seed}" for seed in range(len(values))),
    )


def check(first: Mapping[str, str], second: Mapping[str, str], **more: Any) -> Check:
    """First above second in reliability."""
    values: dict[str, Any] = {"where": {}, "relation": "above", "by": 0.0} | more
    return Check(
        *("x.c1", "a"),
        first=first,
        second=second,
        score="reliability",
        second_score="reliability",
        **values,
    )


def section(*arms: Arm) -> Section:
    return Section({}, {}, arms, {}, 0)


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
    ],
)
def test_judge_when_the_interval_lies_there_then_that_verdict(
    low: float, high: float, relation: str, by: float, expected: Verdict
) -> None:
    assert judge(Estimate((low + high) / 2, 3, low, high, "t"), relation, by) == expected


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
    assert find(check({"arm": "full"}, {"arm": "less"}), arms, None).why == "less failed 1/1"
    made = find(check({"arm": "full"}, {"arm": "other"}), arms, None)
    assert (made.verdict, made.why) == ("not run", "no such arms in the store")


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


def test_pairs_when_arms_are_named_then_what_follows_from_the_name_need_not_agree() -> None:
    full = arm("full", 0.5, swept={"arm": "full", "protocol.order": "kmeans"})
    given = arm("given", 0.5, swept={"arm": "given", "protocol.order": "given"})
    assert pairs(check({"arm": "full"}, {"arm": "given"}), [full, given]) == ((full, given),)


def test_load_checks_when_there_are_alternatives_then_each_is_a_comparison(tmp_path: Path) -> None:
    line = "x.c1,a,method=m,k=1|2,k=3&l=4|5,reliability|generality,,within,0.02\n"
    (tmp_path / "claim_checks.csv").write_text(HEADER + line)
    found = load_checks(tmp_path)
    assert len(found) == 2 * 2 * 2
    assert {tuple(one.second.items()) for one in found} == {
        (("k", "3"), ("l", "4")),
        (("k", "3"), ("l", "5")),
    }
    assert {(one.score, one.second_score) for one in found} == {
        ("reliability", "reliability"),
        ("generality", "generality"),
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x,a,,arm=b,arm=c,reliability,,over,0", "line 2: relation is 'over'"),
        ("x,a,,arm=b,arm=c,reliability,,above,much", "by is 'much', not a number"),
        ("x,a,,arm,arm=c,reliability,,above,0", "'arm' is not key=value"),
        (
            "x,a,,arm=b,arm=c,reliabilty,,above,0",
            "'reliabilty' is no metric; did you mean 'reliability'",
        ),
        ("x,a,,arm=b,arm=c,stale_rate,retention.immediate,above,0", "'retention.immediate' is no"),
    ],
)
def test_load_checks_when_a_line_is_broken_then_the_error_names_it(
    tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "claim_checks.csv").write_text(f"{HEADER}{line}\n")
    with pytest.raises(PaperNumbersError, match=said):
        load_checks(tmp_path)


def test_every_comparison_is_of_a_known_claim_and_of_arms_that_its_ablation_runs() -> None:
    claims = {claim.claim_id for claim in load_claims()}
    ran: dict[str, list[list[Arm]]] = {}
    for one in load_checks():
        assert one.claim_id in claims
        if one.ablation not in ran:
            ran[one.ablation] = [planned(one.ablation, scale) for scale in ("quick", "paper")]
        assert any(pairs(one, arms) for arms in ran[one.ablation]), one


def planned(ablation: str, scale: str) -> list[Arm]:
    """The arms of a sweep before it ran."""
    trials = plan.expand(
        config.load([f"ablation={ablation}", f"scale={scale}", "seeds=[0]"])
    ).trials
    return [
        arm(
            trial.arm,
            swept=dict(trial.swept),
            published=trial.published,
            method=str(trial.method["name"]),
        )
        for trial in trials
    ]
