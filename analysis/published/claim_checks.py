"""Compares the arms that a published claim is about, and judges whether our runs confirm it.

Differences are taken within a seed, as all arms of a seed make the same edits. What is said of many
arms at once, such as all orders of the same edits, is said of their means over seeds. Two sides of
one method that differ in a setting which was not swept are not judged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import pandas as pd

from analysis.aggregate import (
    Arm,
    Estimate,
    RecordReader,
    Section,
    estimate,
    with_intervals,
)
from analysis.intervals import intervals_over_subjects
from analysis.published.claim_list import EACH, OF_MANY, OF_ONE, OF_ORDERS, Check
from analysis.published.mixed import mixed_settings
from analysis.published.pairing import (
    further_keys,
    is_selected,
    paired_difference,
    pairs,
    texts_of,
)
from analysis.published.variation import ORDER, more_spread, rank_correlation, share_passing, spread

Verdict: TypeAlias = Literal["confirmed", "refuted", "undecided", "not run"]
VERDICTS: tuple[Verdict, ...] = ("confirmed", "refuted", "undecided", "not run")
_MOST_STATES = 3  # arms named where there is no mean to compare

_QUESTION = ["record_id", "score", "prompt", "nth"]  # what one line of two arms' results asks


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        verdict: `not run` where there are no such arms; arms that are there without a mean or the
            score leave it undecided.
        difference: First minus second, averaged over pairs of arms, then over seeds, or what the
            relation of many arms is about; None: there is none.
        num_pairs: Number of pairs of arms that it is averaged over; 0 where there are none.
        num_arms: Number of arms that it is said of, if not of pairs.
        why: Why there is no difference; "" if there is one.
        measure: How the answers were scored; None: there is no difference.
        caution: What was not swept and differs between its pairs, or its arms; "" if nothing does.
    """

    check: Check
    verdict: Verdict
    difference: Estimate | None = None
    num_pairs: int = 0
    num_arms: int = 0
    why: str = ""
    measure: str | None = None
    caution: str = ""


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
    if check.relation in OF_MANY:
        return _find_over_arms(check, section, records)
    matched = pairs(check, section.arms)
    if not matched:
        return Finding(check, "not run", why=_unmatched(check, section.arms))
    if states := _states(itertools.chain(*matched)):
        return Finding(check, "undecided", why=states)
    if unlike := _unlike(matched):
        return Finding(check, "undecided", why=unlike)
    if missing := _missing(check, matched):
        return Finding(check, "undecided", why=f"{missing} was not measured")
    if check.relation in OF_ONE:
        found = _own(check, [first for first, _ in matched], section.measure, records)
    elif check.relation == "gains_more":
        found = _difference_of_gains(check, matched)
    else:
        found = _difference(check, matched, section.measure, records)
    if found is None:
        return Finding(check, "undecided", why="the arms have no seed in common")
    verdict = judge(found, check.relation, check.by)
    caution = _caution(list(itertools.chain(*matched)))
    return Finding(check, verdict, found, len(matched), measure=section.measure, caution=caution)


def judge(difference: Estimate, relation: str, by: float) -> Verdict:
    """Whether an interval confirms what `claim_list.RULES` says of a relation.

    An interval that touches the margin leaves it undecided.

    Args:
        difference: First minus second, the first alone, or a number of many arms.
        relation: One of `claim_list.RELATIONS`.
        by: The margin, in the score's units; not negative for `within`.
    """
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "undecided"
    if relation in ("stays_below", "falls_with"):
        return "confirmed" if high < by else "refuted" if low > by else "undecided"
    if relation not in ("within", "never_passes"):
        return "confirmed" if low > by else "refuted" if high < by else "undecided"
    if -by <= low and high <= by:
        return "confirmed"
    return "refuted" if low > by or high < -by else "undecided"


def verdict_on(found: Sequence[Finding]) -> Verdict:
    """The verdict on a claim by one backbone and data set, over what was run or has to be there."""
    return combined(
        [each.verdict for each in found if each.verdict != "not run" or _is_needed(each)]
    )


def left_out(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Comparisons that were not run, and need not be for a verdict."""
    return tuple(each for each in found if each.verdict == "not run" and not _is_needed(each))


def _is_needed(finding: Finding) -> bool:
    return finding.check.needed == "always"


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim: refuted if one comparison is, confirmed only if all of them are."""
    if "refuted" in verdicts:
        return "refuted"
    if set(verdicts) <= {"not run"}:
        return "not run"
    return "confirmed" if set(verdicts) == {"confirmed"} else "undecided"


def expanded(check: Check, arms: Sequence[Arm]) -> tuple[Check, ...]:
    """One comparison for each value that `each` stands for in `where`: those with arms to compare.

    `check` itself if there are none.
    """
    keys = [key for key, value in check.where.items() if value == EACH]
    if not keys:
        return (check,)
    values = [{text for arm in arms for text in texts_of(arm, key)} - {"None"} for key in keys]
    ordered = [sorted(texts, key=lambda text: (len(text), text)) for texts in values]
    chosen = [
        replace(check, where={**check.where, **dict(zip(keys, point, strict=True))})
        for point in itertools.product(*ordered)
    ]
    return tuple(each for each in chosen if pairs(each, arms)) or (check,)


def _unmatched(check: Check, arms: Sequence[Arm]) -> str:
    """Why no pair was found."""
    sides = [{**check.where, **selector} for selector in (check.first, check.second)]
    if all(any(is_selected(arm, side) for arm in arms) for side in sides):
        return "no two such arms of one protocol and the same other settings in the store"
    return "no such arms in the store"


def _unlike(matched: Sequence[tuple[Arm, Arm]]) -> str:
    """In what the two arms of a pair differ that was not swept; "" if no pair does."""
    found = dict.fromkeys(str(mixed) for pair in matched for mixed in mixed_settings(pair))
    return f"the arms differ in what was not swept, {'; '.join(found)}" if found else ""


def _caution(arms: Sequence[Arm]) -> str:
    found = dict.fromkeys(f"mixed {mixed}" for mixed in mixed_settings(arms))
    return "; ".join(found)


def _missing(check: Check, matched: Sequence[tuple[Arm, Arm]]) -> str:
    """A score that an arm should have for the comparison, and has not; "" if all are there."""
    both = (check.score, check.second_score)
    of_first, of_second = (both, both) if check.relation == "gains_more" else (both[:1], both[1:])
    for first, second in matched:
        for name in of_first:
            if name not in first.scores:
                return name
        for name in of_second:
            if name not in second.scores:
                return name
    return ""


def _difference_of_gains(check: Check, matched: Sequence[tuple[Arm, Arm]]) -> Estimate | None:
    """First less second in one score, less the same in the other, within each seed.

    Its interval is over seeds alone: the two scores ask different questions.
    """
    gains = [paired_difference(matched, each, each) for each in (check.score, check.second_score)]
    in_score, in_other = gains
    if in_score is None or in_other is None:
        return None
    by_seed = zip(in_score.by_seed, in_other.by_seed, strict=True)
    return estimate([gain - other for gain, other in by_seed])


def _difference(
    check: Check,
    matched: Sequence[tuple[Arm, Arm]],
    measure: str,
    records: RecordReader | None,
) -> Estimate | None:
    found = paired_difference(matched, check.score, check.second_score)
    if found is None:
        return None
    if found.low is not None or records is None or check.score != check.second_score:
        return found
    shared = sorted(set.intersection(*(set(arm.seeds) for pair in matched for arm in pair)))
    asked = _paired_records(matched, shared, measure, records)
    drawn = None if asked is None else intervals_over_subjects(asked, measure).get(check.score)
    return (
        found if drawn is None else replace(found, low=drawn[0], high=drawn[1], source="bootstrap")
    )


def _find_over_arms(check: Check, section: Section, records: RecordReader | None) -> Finding:
    """The result of a check that speaks of all selected arms at once."""
    groups = [
        [arm for arm in section.arms if is_selected(arm, {**check.where, **selector})]
        for selector in (check.first, check.second)
    ]
    if not all(groups):
        return Finding(check, "not run", why="no such arms in the store")
    every = list(itertools.chain(*groups)) if check.second != check.first else groups[0]
    if further := _further_keys(check, every):
        why = f"the arms differ in {', '.join(further)}, and not in order alone"
        return Finding(check, "undecided", why=why)
    if check.relation == "never_passes":
        if not any(arm.scores for arm in every):
            return Finding(check, "undecided", why=_states(every) or "no arm was scored")
        scores = [with_intervals(arm, section.measure, records) for arm in every]
        found: Estimate | None = share_passing(every, scores)
    else:
        if states := _states(every):
            return Finding(check, "undecided", why=states)
        for name in dict.fromkeys((check.score, check.second_score)):
            if any(name not in arm.scores for arm in every):
                return Finding(check, "undecided", why=f"{name} was not measured")
        found = _of_many(check, groups)
    if found is None:
        return Finding(check, "undecided", why="too few arms, or all equal", num_arms=len(every))
    return Finding(
        check,
        judge(found, check.relation, check.by),
        replace(found, num_seeds=min(len(arm.seeds) for arm in every)),
        num_arms=len(every),
        measure=section.measure,
        caution=_caution(every),
    )


def _further_keys(check: Check, arms: Sequence[Arm]) -> list[str]:
    """In what arms differ of which a check speaks as of orders of the same edits."""
    if check.relation not in OF_ORDERS:
        return []
    unswept = (mixed.key for mixed in mixed_settings(arms))
    return list(dict.fromkeys([*further_keys(check, arms, ORDER), *unswept]))


def _of_many(check: Check, groups: Sequence[Sequence[Arm]]) -> Estimate | None:
    """The number that a relation of many arms is about, over their means."""
    first, second = ([arm.scores[check.score].mean for arm in group] for group in groups)
    if check.relation == "spreads":
        return spread(first)
    if check.relation == "spreads_more":
        return more_spread(first, second)
    others = [arm.scores[check.second_score].mean for arm in groups[0]]
    return rank_correlation(list(zip(others, first, strict=True)))


def _states(arms: Iterable[Arm]) -> str:
    """Which arms have no mean, and why; "" if all have one."""
    found = sorted({f"{arm.name} {arm.state}" for arm in arms if arm.state})
    further = len(found) - _MOST_STATES
    more = [f"and {further} further arms"] if further > 0 else []
    return "; ".join([*found[:_MOST_STATES], *more])


def _own(
    check: Check, arms: Sequence[Arm], measure: str, records: RecordReader | None
) -> Estimate | None:
    """The score of one arm, with its interval, or of several, averaged over them."""
    if len(arms) == 1:
        return with_intervals(arms[0], measure, records)[check.score]
    shared = sorted(set.intersection(*(set(arm.seeds) for arm in arms)))
    if not shared:
        return None
    sums = (math.fsum(arm.of_seed(check.score, seed) for arm in arms) for seed in shared)
    return estimate([total / len(arms) for total in sums])


def _paired_records(
    matched: Sequence[tuple[Arm, Arm]], seeds: Sequence[int], measure: str, records: RecordReader
) -> list[pd.DataFrame] | None:
    """Differences question by question, of each pair and seed; None if questions differ."""
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
    return frames


def _asked(arm: Arm, seed: int, measure: str, records: RecordReader) -> pd.DataFrame | None:
    found = records(arm.records[arm.seeds.index(seed)], arm.context["dataset"])
    if found is None or measure not in found or "prompt" not in found:
        return None
    kept = found[found[measure].notna()]
    nth = kept.groupby(["record_id", "score", "prompt"]).cumcount()
    return kept.assign(nth=nth)[[*_QUESTION, "subject", measure]]
