"""Compares the arms that a published claim is about, and judges whether our runs confirm it.

A claim is a row of `paper_tables/claims.csv`; `paper_tables/claim_checks.csv` says which arms of
which ablation it compares. Arms are paired when they agree in all that the comparison does not
name, and differences are taken within a seed, as all arms of a seed make the same edits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pandas as pd

from analysis.aggregate import (
    Arm,
    Estimate,
    RecordReader,
    Section,
    estimate,
    intervals_over_subjects,
)
from analysis.errors import PaperNumbersError
from analysis.metrics import score_error
from analysis.published.paper_numbers import FOLDER, read

Selector: TypeAlias = Mapping[str, str]  # key of an arm -> value as text
Verdict: TypeAlias = Literal["confirmed", "refuted", "undecided", "not run"]
VERDICTS: tuple[Verdict, ...] = ("confirmed", "refuted", "undecided", "not run")
_OF_ONE = ("reaches", "stays_below")  # relations of one arm's score to a number
RELATIONS = ("above", "within", *_OF_ONE)

_COLUMNS = ("claim_id", "ablation", "where", "first", "second", "score", "second_score")
_QUESTION = ["record_id", "score", "prompt", "nth"]  # what one line of two arms' results asks


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and its published evidence."""

    claim_id: str
    statement: str
    rests_on: str
    published_evidence: str
    caution: str


@dataclass(frozen=True)
class Check:
    """One comparison of a claim.

    Attributes:
        ablation: The sweep that runs both.
        where: Keys and values that both arms have.
        first: Keys and values that select the arms to compare.
        second: Keys and values that select the arms to compare them with; equal to `first` if two
            scores of one arm are compared.
        score: The score of the first arm.
        second_score: The score of the second arm.
        relation: `above`: the first exceeds the second by more than `by`; `within`: they differ by
            no more than `by`; `reaches`, `stays_below`: the first alone is above, or below, `by`.
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


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        difference: First minus second, averaged over pairs of arms, then over seeds; None: not run.
        num_pairs: Number of pairs of arms that it is averaged over.
        why: Why there is no difference; "" if there is one.
        measure: How the answers were scored; None: not run.
    """

    check: Check
    verdict: Verdict
    difference: Estimate | None = None
    num_pairs: int = 0
    why: str = ""
    measure: str | None = None


def load_claims() -> tuple[Claim, ...]:
    """All claims of `paper_tables/claims.csv`, in its order."""
    names = ("claim_id", "statement", "rests_on", "published_evidence", "caution")
    return tuple(Claim(**{name: row[name] for name in names}) for row in read("claims", names))


def load_checks(folder: Any = FOLDER) -> tuple[Check, ...]:
    """All comparisons of `paper_tables/claim_checks.csv`; alternatives `a|b` are separate ones.

    Raises:
        PaperNumbersError: If a selector is not `key=value`, a relation or score is unknown, or `by`
            is no number; the message names the row.
    """
    checks: list[Check] = []
    for number, row in enumerate(read("claim_checks", (*_COLUMNS, "relation", "by"), folder), 2):
        place = f"claim_checks.csv line {number}"
        if row["relation"] not in RELATIONS:
            raise PaperNumbersError(
                f"{place}: relation is {row['relation']!r}; use {', '.join(RELATIONS)}"
            )
        try:
            by = float(row["by"])
        except ValueError:
            raise PaperNumbersError(f"{place}: by is {row['by']!r}, not a number") from None
        scores = row["score"].split("|")
        for name in (*scores, *filter(None, [row["second_score"]])):
            if wrong := score_error(name):
                raise PaperNumbersError(f"{place}: {wrong}")
        first = _selectors(place, row["first"])
        second = _selectors(place, row["second"]) if row["second"] else None
        if row["relation"] in _OF_ONE and (second or row["second_score"]):
            raise PaperNumbersError(f"{place}: {row['relation']} has no second arm or score")
        (where,) = _selectors(place, row["where"]) if row["where"] else ({},)
        for score, one in itertools.product(scores, first):
            for other in second or [one]:
                checks.append(
                    Check(
                        claim_id=row["claim_id"],
                        ablation=row["ablation"],
                        where=where,
                        first=one,
                        second=other,
                        score=score,
                        second_score=row["second_score"] or score,
                        relation=row["relation"],
                        by=by,
                    )
                )
    return tuple(checks)


def find(check: Check, section: Section, records: RecordReader | None) -> Finding:
    """The result of `check` on the arms of `section`.

    With three seeds or more the interval of the difference is Student's over seeds; with fewer it
    is a bootstrap over subjects of the paired answers, for scores of questions that both arms were
    asked alike.

    Args:
        check: The comparison.
        section: Arms of the check's ablation.
        records: `runs.read_records`; None: no interval with fewer than three seeds.
    """
    matched = pairs(check, section.arms)
    if not matched:
        return Finding(check, "not run", why="no such arms in the store")
    states = {f"{arm.name} {arm.state}" for arm in itertools.chain(*matched) if arm.state}
    if states:
        return Finding(check, "not run", why="; ".join(sorted(states)))
    scored = [
        (first, second)
        for first, second in matched
        if check.score in first.scores and check.second_score in second.scores
    ]
    if len(scored) < len(matched):
        return Finding(check, "not run", why=f"{check.score} was not measured")
    if check.relation in _OF_ONE:
        found = _own(check, [first for first, _ in scored])
    else:
        found = _difference(check, scored, section.measure, records)
    if found is None:
        return Finding(check, "not run", why="the arms have no seed in common")
    verdict = judge(found, check.relation, check.by)
    return Finding(check, verdict, found, len(scored), measure=section.measure)


def judge(difference: Estimate, relation: str, by: float) -> Verdict:
    """Whether an interval confirms that a difference is `above`, or `within`, a margin.

    An interval that touches the margin leaves it undecided.

    Args:
        difference: First minus second, or the first alone.
        relation: One of `RELATIONS`.
        by: The margin, in the score's units; not negative for `within`.
    """
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "undecided"
    if relation == "stays_below":
        return "confirmed" if high < by else "refuted" if low > by else "undecided"
    if relation in ("above", "reaches"):
        return "confirmed" if low > by else "refuted" if high < by else "undecided"
    if -by <= low and high <= by:
        return "confirmed"
    return "refuted" if low > by or high < -by else "undecided"


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim: refuted if one comparison is, confirmed only if all of them are."""
    if "refuted" in verdicts:
        return "refuted"
    if set(verdicts) <= {"not run"}:
        return "not run"
    return "confirmed" if set(verdicts) == {"confirmed"} else "undecided"


def pairs(check: Check, arms: Sequence[Arm]) -> tuple[tuple[Arm, Arm], ...]:
    """Pairs of arms that the check compares, equal in all swept keys that it does not name.

    Keys that follow from named ones may differ, as a method's settings follow from its arm.
    """
    arms = [arm for arm in arms if _is_selected(arm, check.where)]
    named = list(dict.fromkeys([*check.first, *check.second, *check.where]))
    rest = _free_keys(arms, named)
    seconds = {_values(arm, rest): arm for arm in arms if _is_selected(arm, check.second)}
    return tuple(
        (arm, seconds[_values(arm, rest)])
        for arm in arms
        if _is_selected(arm, check.first) and _values(arm, rest) in seconds
    )


def _difference(
    check: Check,
    matched: Sequence[tuple[Arm, Arm]],
    measure: str,
    records: RecordReader | None,
) -> Estimate | None:
    shared = sorted(set.intersection(*(set(arm.seeds) for pair in matched for arm in pair)))
    if not shared:
        return None
    by_seed = [
        math.fsum(
            _of_seed(first, check.score, seed) - _of_seed(second, check.second_score, seed)
            for first, second in matched
        )
        / len(matched)
        for seed in shared
    ]
    found = estimate(by_seed)
    if found.low is not None or records is None or check.score != check.second_score:
        return found
    asked = _paired_records(matched, shared, measure, records)
    drawn = None if asked is None else intervals_over_subjects(asked, measure).get(check.score)
    return (
        found if drawn is None else replace(found, low=drawn[0], high=drawn[1], source="bootstrap")
    )


def _own(check: Check, arms: Sequence[Arm]) -> Estimate | None:
    """The score of one arm, with its interval, or of several, averaged over them."""
    if len(arms) == 1:
        return arms[0].scores[check.score]
    shared = sorted(set.intersection(*(set(arm.seeds) for arm in arms)))
    if not shared:
        return None
    sums = (math.fsum(_of_seed(arm, check.score, seed) for arm in arms) for seed in shared)
    return estimate([total / len(arms) for total in sums])


def _paired_records(
    matched: Sequence[tuple[Arm, Arm]], seeds: Sequence[int], measure: str, records: RecordReader
) -> pd.DataFrame | None:
    """Differences question by question; None if the arms were not asked the same questions."""
    frames = []
    for (first, second), seed in itertools.product(matched, seeds):
        sides = [_asked(arm, seed, measure, records) for arm in (first, second)]
        one, other = sides
        if one is None or other is None or len(one) != len(other):
            return None
        joined = one.merge(other, on=_QUESTION, suffixes=("", "_second"))
        if len(joined) != len(one):
            return None
        frames.append(
            pd.DataFrame(
                {
                    "subject": joined["subject"],
                    "score": joined["score"],
                    measure: joined[measure] - joined[f"{measure}_second"],
                }
            )
        )
    return pd.concat(frames)


def _asked(arm: Arm, seed: int, measure: str, records: RecordReader) -> pd.DataFrame | None:
    found = records(arm.records[arm.seeds.index(seed)], arm.context["dataset"])
    if found is None or measure not in found or "prompt" not in found:
        return None
    kept = found[found[measure].notna()]
    nth = kept.groupby(["record_id", "score", "prompt"]).cumcount()
    return kept.assign(nth=nth)[[*_QUESTION, "subject", measure]]


def _of_seed(arm: Arm, score: str, seed: int) -> float:
    return arm.scores[score].by_seed[arm.seeds.index(seed)]


def _is_selected(arm: Arm, selector: Selector) -> bool:
    return all(wanted in _texts(arm, key) for key, wanted in selector.items())


def _texts(arm: Arm, key: str) -> tuple[str, ...]:
    """The values of an arm under `key`: the published ones that it stands for, else its own."""
    if key == "arm":
        return (str(arm.swept.get("arm", arm.name)),)
    if key == "method":
        return (arm.method,)
    own = arm.swept.get(key, arm.protocol.get(key.removeprefix("protocol.")))
    return tuple(str(value) for value in arm.published.get(key, [own]))


def _values(arm: Arm, keys: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(_texts(arm, key) for key in keys)


def _free_keys(arms: Sequence[Arm], named: Sequence[str]) -> list[str]:
    """Swept keys that differ between arms with equal values of the `named` keys."""
    swept = dict.fromkeys(key for arm in arms for key in arm.swept if key not in named)
    groups: dict[Any, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(_values(arm, named), []).append(arm)
    return [
        key
        for key in swept
        if any(len({_texts(arm, key) for arm in group}) > 1 for group in groups.values())
    ]


def _selectors(place: str, text: str) -> list[Selector]:
    """`key=a|b` as two selectors, `key=a&other=b` as one with two keys."""
    parts = [part.partition("=") for part in text.split("&")]
    if any(not (key and equals and value) for key, equals, value in parts):
        raise PaperNumbersError(f"{place}: {text!r} is not key=value, with & or | between")
    choices = [[(key, value) for value in values.split("|")] for key, _, values in parts]
    return [dict(chosen) for chosen in itertools.product(*choices)]
