"""Says in words what a comparison of a claim compares, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.metrics import digits
from analysis.published.claim_checks import Finding
from analysis.published.claim_list import OF_ONE, OF_TWO_SCORES, Check
from analysis.published.measures import USUAL
from analysis.render.table import estimate_text

_FURTHER_DIGITS = 1  # of a difference, beside those of the score in a table


def score_text(finding: Finding) -> str:
    """The score that is compared, with its measure where that is not the usual one."""
    named = "share of arms" if finding.check.relation == "never_passes" else finding.check.score
    return named if finding.measure in (None, USUAL) else f"{named} ({finding.measure})"


def relation_text(check: Check) -> str:
    """Which arms, and how they should lie to each other."""
    where = "".join(f", {key}={value}" for key, value in check.where.items())
    first, second = _named(check.first), _named(check.second)
    if check.relation == "gains_more":
        return f"{first} gains more over {second} than in {check.second_score}{where}"
    if check.score != check.second_score:
        second += f" ({check.second_score})"
    words = check.relation.replace("_", " ")
    if check.relation in OF_ONE:
        return f"{first} {words} {check.by:g}{where}"
    if check.relation == "spreads":
        return f"{first} spreads by more than {check.by:g}{where}"
    if check.relation == "spreads_more":
        return f"{first} spreads more than {second}{where}"
    if check.relation in OF_TWO_SCORES:
        return f"{first} {words} {check.second_score}{where}"
    if check.relation == "never_passes":
        return f"{first} never passes{where}"
    if check.relation == "within":
        return f"{first} within {check.by:g} of {second}{where}"
    margin = f" by {check.by:g}" if check.by else ""
    return f"{first} above {second}{margin}{where}"


def difference_text(finding: Finding) -> str:
    """The difference with its interval, what it is over and what to mind, or why there is none."""
    if finding.difference is None:
        return finding.why
    pairs = f", {finding.num_pairs} pairs of arms" if finding.num_pairs > 1 else ""
    pairs += f", {finding.num_arms} arms" if finding.num_arms else ""
    bare = ", no interval" if finding.difference.low is None else ""
    score = finding.check.score
    shown = digits([score])[score] + _FURTHER_DIGITS
    caution = f"; {finding.caution}" if finding.caution else ""
    return estimate_text(finding.difference, shown) + pairs + bare + caution


def _named(selector: Mapping[str, str]) -> str:
    """An arm or a method by its name, a setting as name=value."""
    return ", ".join(
        value if key in ("arm", "method") else f"{key.rpartition('.')[2]}={value}"
        for key, value in selector.items()
    )
