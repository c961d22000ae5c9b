"""The files of claims and comparisons: how lines are read, and what the real ones compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.aggregate import Arm
from analysis.errors import PaperNumbersError
from analysis.published import paper_numbers
from analysis.published.claim_checks import expanded
from analysis.published.claim_list import load_checks, load_claims
from analysis.published.compare import plain
from analysis.published.pairing import pairs
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from tests.unit.comparisons import arm

ROOT = Path(__file__).resolve().parents[3]
HEADER = "claim_id,ablation,where,first,second,score,second_score,relation,by,needed\n"


def test_load_checks_when_there_are_alternatives_then_each_is_a_comparison(tmp_path: Path) -> None:
    line = "x.c1,a,method=m,k=1|2,k=3&l=4|5,reliability|generality,,within,0.02,\n"
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
        ("x,a,,arm=b,arm=c,reliability,,over,0,", "line 2: relation is 'over'"),
        ("x,a,,arm=b,arm=c,reliability,,above,0,maybe", "needed is 'maybe'; use always, once"),
        ("x,a,,arm=b,arm=c,reliability,,spreads,0,", "spreads has no second arm"),
        ("x,a,,arm=b,,reliability,,rises_with,0,", "rises_with needs a second score"),
        ("x,a,,arm=b,,reliability,generality,reaches,0,", "reaches has no second score"),
        ("x,a,,arm=b,arm=c,reliability,,above,much,", "by is 'much', not a number"),
        ("x,a,,arm,arm=c,reliability,,above,0,", "'arm' is not key=value"),
        (
            "x,a,,arm=b,arm=c,reliabilty,,above,0,",
            "'reliabilty' is no metric; did you mean 'reliability'",
        ),
        ("x,a,,arm=b,arm=c,stale_rate,retention.immediate,above,0,", "'retention.immediate' is no"),
    ],
)
def test_load_checks_when_a_line_is_broken_then_the_error_names_it(
    tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "claim_checks.csv").write_text(f"{HEADER}{line}\n")
    with pytest.raises(PaperNumbersError, match=said):
        load_checks(tmp_path)


def test_every_claim_has_comparisons_of_arms_that_its_ablation_runs() -> None:
    methods = {path.stem for path in (ROOT / "search_spaces" / "method").glob("*.yaml")}
    ran: dict[str, list[list[Arm]]] = {}
    runnable: set[str] = set()
    for one in load_checks():
        if one.ablation not in ran:
            ran[one.ablation] = [planned(one.ablation, scale) for scale in ("quick", "paper")]
        found = [
            each for arms in ran[one.ablation] for each in expanded(one, arms) if pairs(each, arms)
        ]
        # What a paper compares with and this repository has no method for is named all the same.
        is_absent = one.needed == "if_run" and one.second.get("method", "ft_l") not in methods
        assert found or is_absent, one
        runnable |= {one.claim_id for _ in found}
    assert runnable == {claim.claim_id for claim in load_claims()}


def test_memoe_v1_c1_names_every_baseline_of_its_table() -> None:
    ours = {"COMEBA": "comeba_hk"}
    rows = paper_numbers.load("memoe_v1_table1")
    printed = {plain(ours.get(row.method, row.method)) for row in rows}
    named = {one.second["method"] for one in load_checks() if one.claim_id == "memoe_v1.c1"}
    assert {plain(name) for name in named} == printed - {"memoe"}


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
