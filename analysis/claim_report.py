"""Judges the published claims by the runs of a store, and prints the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from analysis import aggregate
from analysis.aggregate import Section
from analysis.errors import AnalysisError
from analysis.layouts.catalogue import get_layout, known_layouts
from analysis.metrics import digits
from analysis.published.claim_checks import (
    VERDICTS,
    Finding,
    Verdict,
    expanded,
    find,
    left_out,
    verdict_on,
)
from analysis.published.claim_list import (
    NEEDS,
    OF_ONE,
    OF_TWO_SCORES,
    RULES,
    Check,
    Claim,
    load_checks,
    load_claims,
)
from analysis.published.claims_over_models import Context, OverModels, over_models, over_models_text
from analysis.published.compare import PUBLISHED_UPDATES, update_orders
from analysis.published.measures import USUAL, measure_of
from analysis.reading import runs
from analysis.render.table import estimate_text

_FURTHER_DIGITS = 1  # of a difference, beside those of the score in a table
_NOTES = (
    "difference: first less second, mean over seeds (their number); ± 95% interval over seeds "
    "(Student's t), or [low, high] 95% bootstrap over subjects where there are fewer than 3; of "
    "many arms: what the comparison is about, and its interval as [low, high]",
    "confirmed: every comparison's interval lies where the claim says; refuted: that of one lies "
    "elsewhere; undecided: an interval reaches both sides, or there is none, or no run, or arms "
    "that ran have no mean; below each claim stands what its comparisons demand",
    "no interval: fewer than 3 seeds, and arms that were not asked the same questions, or a number "
    "that is no score of questions",
    "each interval is one of 95%: of a hundred comparisons of equals some five look decided",
    "directions and stated margins are judged, not levels; a verdict holds for this backbone alone",
)


@dataclass(frozen=True)
class Options:
    """Where the runs are, and which measure is compared."""

    store: Path = Path("results")
    measure: str | None = None  # that of the published table which an ablation answers
    server: str | None = None


def report(asked: Sequence[str], options: Options, form: str) -> str:
    """The verdicts on the claims `asked` for, by backbone and data set, as Markdown or CSV.

    Args:
        asked: Claims (`lemoe.c3`) or papers (`lemoe`); none: all.
        options: Where the runs are.
        form: markdown or csv.

    Raises:
        AnalysisError: If a claim is unknown, there is no store, or no run in it is asked for.
    """
    claims, checks = _chosen(asked), load_checks()
    wanted = {claim.claim_id for claim in claims}
    checks = tuple(check for check in checks if check.claim_id in wanted)
    names = list(dict.fromkeys(check.ablation for check in checks))
    sections, missing = _newest(names, options)
    found = findings(checks, sections)
    missing += [
        runs.lacking_line(name, count, options.store, options.server)
        for name, count in runs.lacking(options.store, options.server).items()
        if name in names
    ]
    if not found:
        why = f"no ablation in the store tests these claims; they are: {', '.join(names)}"
        raise AnalysisError("; ".join([why, *missing]))
    over = {claim.claim_id: over_models(claim, found) for claim in claims if claim.over_models}
    if form == "csv":
        frames = [_lines(context, claims, by_claim, over) for context, by_claim in found.items()]
        return str(pd.concat(frames).to_csv(index=False))
    parts = [_markdown(context, claims, by_claim) for context, by_claim in found.items()]
    parts += [over_models_text([claim for claim in claims if claim.over_models], over)]
    return "\n".join([*filter(None, parts), *(f"- {line}\n" for line in missing)])


def findings(
    checks: Sequence[Check], sections: Mapping[str, Mapping[Context, Section]]
) -> dict[Context, dict[str, tuple[Finding, ...]]]:
    """The findings on each claim, one for each of its comparisons, by backbone and data set.

    Args:
        checks: The comparisons.
        sections: Of each ablation that was run, the arms on each backbone and data set.
    """
    records = cache(runs.read_records)  # an arm stands in several comparisons
    found: dict[Context, dict[str, tuple[Finding, ...]]] = {}
    contexts = (context for by_context in sections.values() for context in by_context)
    for context in dict.fromkeys(contexts):
        by_claim: dict[str, tuple[Finding, ...]] = {}
        for check in checks:
            section = sections.get(check.ablation, {}).get(context)
            made = (
                (Finding(check, "not run", why=f"ablation={check.ablation} has no arms to judge"),)
                if section is None
                else tuple(find(each, section, records) for each in expanded(check, section.arms))
            )
            by_claim[check.claim_id] = (*by_claim.get(check.claim_id, ()), *made)
        found[context] = by_claim
    return found


def _newest(
    ablations: Sequence[str], options: Options
) -> tuple[dict[str, dict[Context, Section]], list[str]]:
    """The newest section of each ablation that was run, and a line on each that is not judged.

    A section is not judged whose serial streams have their updates in an order that no claim is
    about.
    """
    there = runs.experiments(options.store, options.server)
    chosen: dict[str, dict[Context, Section]] = {}
    lines: list[str] = []
    for ablation in (each for each in ablations if each in there):
        made = chosen.setdefault(ablation, {})
        for section in _sections(ablation, options):
            context = (section.context["backbone"], section.context["dataset"])
            if orders := update_orders(section):
                lines.append(
                    f"not judged: {ablation} on {', '.join(context)} with protocol.update_order="
                    f"{', '.join(orders)}; the claims are about {PUBLISHED_UPDATES}"
                )
            else:
                made.setdefault(context, section)
    return chosen, lines


def _sections(ablation: str, options: Options) -> tuple[Section, ...]:
    """The sections of one ablation, the newest first."""
    rows = runs.read_runs(options.store, ablation, options.server)
    papers = {paper for tag in set(rows["paper"]) for paper in runs.papers_of(tag)}
    known = [get_layout(paper) for paper in papers & set(known_layouts())]
    # What may differ in the ablation's own tables; each backbone and data set is judged alone.
    varying = {key for layout in known for key in layout.varying} - {"backbone", "dataset"}
    return aggregate.sections(rows, options.measure or measure_of(papers), sorted(varying))


def _chosen(asked: Sequence[str]) -> tuple[Claim, ...]:
    claims = load_claims()
    for word in asked:
        if not any(_is_of(claim, word) for claim in claims):
            papers = dict.fromkeys(claim.claim_id.partition(".")[0] for claim in claims)
            raise AnalysisError(
                f"no claim or paper {word!r}; papers: {', '.join(papers)}; a claim: lemoe.c3"
            )
    return tuple(
        claim for claim in claims if not asked or any(_is_of(claim, word) for word in asked)
    )


def _is_of(claim: Claim, word: str) -> bool:
    return claim.claim_id == word or claim.claim_id.startswith(f"{word}.")


def _markdown(
    context: Context, claims: Sequence[Claim], found: Mapping[str, Sequence[Finding]]
) -> str:
    verdicts = {name: verdict_on(own) for name, own in found.items()}
    counts = Counter(verdicts.values())
    tally = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    lines = [f"## Published claims on backbone {context[0]}, dataset {context[1]}: {tally}", ""]
    lines += [f"- {note}" for note in _NOTES]
    for claim in claims:
        if verdicts.get(claim.claim_id, "not run") != "not run":
            lines += ["", *_claim_lines(claim, verdicts[claim.claim_id], found[claim.claim_id])]
    missing = {
        claim.claim_id: ", ".join(dict.fromkeys(f.check.ablation for f in found[claim.claim_id]))
        for claim in claims
        if verdicts.get(claim.claim_id) == "not run"
    }
    if missing:
        names = "; ".join(f"{name} ({ablations})" for name, ablations in missing.items())
        lines += ["", f"- not run (by ablation): {names}"]
    return "\n".join(lines) + "\n"


def _claim_lines(claim: Claim, verdict: Verdict, found: Sequence[Finding]) -> list[str]:
    evidence = f"{claim.rests_on}: {claim.published_evidence}"
    caution = [f"- caution: {claim.caution}"] if claim.caution else []
    absent = left_out(found)
    rows = [
        (_relation(finding.check), _score(finding), _difference(finding), finding.verdict)
        for finding in found
        if finding not in absent
    ]
    table = pd.DataFrame(rows, columns=["Comparison", "Score", "Difference", "Verdict"])
    return [
        f"### {claim.claim_id}: {verdict}",
        "",
        claim.statement,
        "",
        f"- the paper, {evidence}",
        *caution,
        *_rules(found),
        "",
        table.to_markdown(index=False, disable_numparse=True),
        *_left_out_line(absent),
    ]


def _rules(found: Sequence[Finding]) -> list[str]:
    """What the comparisons of a claim demand, in plain words."""
    relations = dict.fromkeys(finding.check.relation for finding in found)
    return [f"- {relation.replace('_', ' ')}: {RULES[relation]}" for relation in relations]


def _left_out_line(absent: Sequence[Finding]) -> list[str]:
    if not absent:
        return []
    why = "; ".join(dict.fromkeys(NEEDS[finding.check.needed] for finding in absent))
    names = "; ".join(dict.fromkeys(_relation(finding.check) for finding in absent))
    return ["", f"- without what was not run ({why}): {names}"]


def _score(finding: Finding) -> str:
    named = "share of arms" if finding.check.relation == "never_passes" else finding.check.score
    return named if finding.measure in (None, USUAL) else f"{named} ({finding.measure})"


def _relation(check: Check) -> str:
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


def _named(selector: Mapping[str, str]) -> str:
    """An arm or a method by its name, a setting as name=value."""
    return ", ".join(
        value if key in ("arm", "method") else f"{key.rpartition('.')[2]}={value}"
        for key, value in selector.items()
    )


def _difference(finding: Finding) -> str:
    if finding.difference is None:
        return finding.why
    pairs = f", {finding.num_pairs} pairs of arms" if finding.num_pairs > 1 else ""
    pairs += f", {finding.num_arms} arms" if finding.num_arms else ""
    bare = ", no interval" if finding.difference.low is None else ""
    score = finding.check.score
    shown = digits([score])[score] + _FURTHER_DIGITS
    return estimate_text(finding.difference, shown) + pairs + bare


def _lines(
    context: Context,
    claims: Sequence[Claim],
    found: Mapping[str, Sequence[Finding]],
    over: Mapping[str, OverModels],
) -> pd.DataFrame:
    """One line per comparison, numbers as numbers."""
    lines = []
    for claim in claims:
        for finding in found.get(claim.claim_id, ()):
            check, made = finding.check, finding.difference
            lines.append(
                {
                    "backbone": context[0],
                    "dataset": context[1],
                    "claim": claim.claim_id,
                    "claim_verdict": verdict_on(found[claim.claim_id]),
                    "over_models": over[claim.claim_id].verdict if claim.claim_id in over else "",
                    "ablation": check.ablation,
                    "comparison": _relation(check),
                    "score": check.score,
                    "measure": finding.measure or "",
                    "difference": made.mean if made else None,
                    "low": made.low if made else None,
                    "high": made.high if made else None,
                    "interval": made.source if made else "none",
                    "seeds": made.num_seeds if made else 0,
                    "pairs": finding.num_pairs,
                    "arms": finding.num_arms,
                    "verdict": finding.verdict,
                    "why": finding.why,
                }
            )
    return pd.DataFrame(lines)
