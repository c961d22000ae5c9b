"""The published claims, and the comparisons that test each, as their two files list them.

A claim is a row of `paper_tables/claims.csv`; `paper_tables/claim_checks.csv` says which arms of
which ablation it compares, and how.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from analysis.errors import PaperNumbersError
from analysis.metrics import score_error
from analysis.published.paper_numbers import FOLDER, read

Selector: TypeAlias = Mapping[str, str]  # key of an arm -> value as text
EACH = "each"  # in `where`: one comparison for every value that was run

# What a comparison says -> what its interval must do, in plain words.
RULES: Mapping[str, str] = {
    "above": "confirmed where the interval of the difference lies above 0, or above the margin "
    "that is named; refuted where it lies below",
    "within": "confirmed where the interval of the difference lies within the margin on both "
    "sides; refuted where it lies beyond it",
    "gains_more": "what the first exceeds the second by in the score, less what it does in the "
    "other score; confirmed where the interval of that lies above 0; refuted where it lies below",
    "reaches": "confirmed where the interval of the score itself lies above the number; refuted "
    "where it lies below",
    "stays_below": "confirmed where the interval of the score itself lies below the number; "
    "refuted where it lies above",
    "spreads": "the highest less the lowest mean over all orders that were run; more orders can "
    "only widen it, so that its interval ends at 1, and with the paper's 100 orders at what was "
    "seen; confirmed where it lies above the number, refuted where it lies below",
    "spreads_more": "standard deviations over the orders are compared, in points of the score; "
    "confirmed where the interval of their difference, a bootstrap over orders, lies above 0; "
    "refuted where it lies below",
    "rises_with": "Spearman's rank correlation over the orders, 10 at least, with its interval "
    "by Fisher's z; confirmed where that lies above 0; refuted where it lies below",
    "falls_with": "Spearman's rank correlation over the orders, 10 at least, with its interval "
    "by Fisher's z; confirmed where that lies below 0; refuted where it lies above",
    "never_passes": "the share of arms with reliability and generality of 0.1 and locality of 0.5 "
    "at least; confirmed where every arm has one of the three below with its whole interval; "
    "refuted where one arm has all three above with theirs",
}
RELATIONS = tuple(RULES)
OF_ONE = ("reaches", "stays_below")  # relations of one arm's score to a number
OF_ORDERS = ("spreads", "spreads_more", "rises_with", "falls_with")  # of arms that differ in order
OF_MANY = (*OF_ORDERS, "never_passes")
_WITHOUT_SECOND = (*OF_ONE, "spreads", "rises_with", "falls_with", "never_passes")
OF_TWO_SCORES = ("gains_more", "rises_with", "falls_with")

# How far a comparison is part of its claim -> what that means for the verdict, in plain words.
NEEDS: Mapping[str, str] = {
    "always": "",
    "once": "needed on one backbone and data set at least, counted where it was run",
    "if_run": "counted where it was run",
}

_COLUMNS = ("claim_id", "ablation", "where", "first", "second", "score", "second_score")


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and its published evidence.

    `over_models` is the published table whose models and data sets the claim names each; "" if it
    names none.
    """

    claim_id: str
    statement: str
    rests_on: str
    published_evidence: str
    caution: str
    over_models: str


@dataclass(frozen=True)
class Check:
    """One comparison of a claim.

    Attributes:
        ablation: The sweep that runs both.
        where: Keys and values that both arms have; the value `each` stands for every one that was
            run, each a comparison of its own.
        first: Keys and values that select the arms to compare.
        second: Keys and values that select the arms to compare them with; equal to `first` if two
            scores of one arm are compared, or if there is nothing to compare with.
        score: The score of the first arm.
        second_score: The score of the second arm.
        relation: One of `RELATIONS`. `above`: the first exceeds the second by more than `by`;
            `within`: they differ by no more than `by`; `gains_more`: they differ more in `score`
            than in `second_score`, by more than `by`; `reaches`, `stays_below`: the first alone is
            above, or below, `by`. Of all arms that are selected: `spreads`: the highest exceeds the
            lowest by more than `by`; `spreads_more`: the first ones vary more than the second;
            `rises_with`, `falls_with`: the score does with `second_score`; `never_passes`: none
            passes the filter of LEMoE Table 9.
        by: The margin, in the score's units.
        needed: One of `NEEDS`.
    """

    claim_id: str
    ablation: str
    where: Selector
    first: Selector
    second: Selector
    score: str
    second_score: str
    relation: str
    by: float
    needed: str = "always"


def load_claims() -> tuple[Claim, ...]:
    """All claims of `paper_tables/claims.csv`, in its order."""
    names = ("claim_id", "statement", "rests_on", "published_evidence", "caution", "over_models")
    return tuple(Claim(**{name: row[name] for name in names}) for row in read("claims", names))


def load_checks(folder: Any = FOLDER) -> tuple[Check, ...]:
    """All comparisons of `paper_tables/claim_checks.csv`; alternatives `a|b` are separate ones.

    Raises:
        PaperNumbersError: If a selector is not `key=value`, a relation or score is unknown or lacks
            what it compares with, or `by` is no number; the message names the row.
    """
    columns = (*_COLUMNS, "relation", "by", "needed")
    checks: list[Check] = []
    for number, row in enumerate(read("claim_checks", columns, folder), 2):
        checks += _checks(f"claim_checks.csv line {number}", row)
    return tuple(checks)


def _checks(place: str, row: Mapping[str, str]) -> list[Check]:
    """The comparisons of one line."""
    relation, needed = row["relation"], row["needed"] or "always"
    for name, value, allowed in (("relation", relation, RULES), ("needed", needed, NEEDS)):
        if value not in allowed:
            raise PaperNumbersError(f"{place}: {name} is {value!r}; use {', '.join(allowed)}")
    try:
        by = float(row["by"])
    except ValueError:
        raise PaperNumbersError(f"{place}: by is {row['by']!r}, not a number") from None
    scores = row["score"].split("|")
    for name in (*scores, *filter(None, [row["second_score"]])):
        if wrong := score_error(name):
            raise PaperNumbersError(f"{place}: {wrong}")
    if relation in _WITHOUT_SECOND and row["second"]:
        raise PaperNumbersError(f"{place}: {relation} has no second arm")
    if relation not in ("above", "within") and bool(row["second_score"]) != (
        relation in OF_TWO_SCORES
    ):
        has = "needs a" if relation in OF_TWO_SCORES else "has no"
        raise PaperNumbersError(f"{place}: {relation} {has} second score")
    wheres = _selectors(place, row["where"]) if row["where"] else [{}]
    firsts = _selectors(place, row["first"])
    seconds: Sequence[Selector | None] = [None]
    if row["second"]:
        seconds = _selectors(place, row["second"])
    return [
        Check(
            claim_id=row["claim_id"],
            ablation=row["ablation"],
            where=where,
            first=first,
            second=second or first,
            score=score,
            second_score=row["second_score"] or score,
            relation=relation,
            by=by,
            needed=needed,
        )
        for where, score, first, second in itertools.product(wheres, scores, firsts, seconds)
    ]


def _selectors(place: str, text: str) -> list[Selector]:
    """`key=a|b` as two selectors, `key=a&other=b` as one with two keys."""
    parts = [part.partition("=") for part in text.split("&")]
    if any(not (key and equals and value) for key, equals, value in parts):
        raise PaperNumbersError(f"{place}: {text!r} is not key=value, with & or | between")
    choices = [[(key, value) for value in values.split("|")] for key, _, values in parts]
    return [dict(chosen) for chosen in itertools.product(*choices)]
