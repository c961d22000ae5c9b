"""Judges the published claims by the runs of a store, and prints the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from analysis import aggregate
from analysis.aggregate import Section
from analysis.errors import AnalysisError
from analysis.layouts.catalogue import get_layout, known_layouts
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
    RULES,
    Check,
    Claim,
    load_checks,
    load_claims,
)
from analysis.published.claims_over_models import Context, OverModels, over_models, over_models_text
from analysis.published.compare import PUBLISHED_UPDATES, update_orders
from analysis.published.measures import measure_of
from analysis.reading import runs
from analysis.reports.claims_beside import beside
from analysis.reports.comparison_text import difference_text, relation_text, score_text

TUNED_ON = "tune"  # the part of the records that settings are chosen on
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
    "arms of one method that differ in a setting which was not swept are not judged against each "
    "other; `mixed`: arms that are not compared with each other differ in it",
    "directions and stated margins are judged, not levels; a verdict holds for this backbone alone",
)


@dataclass(frozen=True)
class Options:
    """Where the runs are, of several stores read as one, and which measure is compared."""

    stores: tuple[Path, ...] = (Path("results"),)
    measure: str | None = None  # that of the published table which an ablation answers
    server: str | None = None


@dataclass(frozen=True)
class Judgement:
    """Claims with what the runs say of them.

    Attributes:
        claims: Those that were asked for.
        found: By backbone and data set, the findings on each claim.
        missing: Lines on what is not judged, or judged of several stores.
    """

    claims: tuple[Claim, ...]
    found: dict[Context, dict[str, tuple[Finding, ...]]]
    missing: tuple[str, ...]

    def verdicts(self) -> dict[Context, dict[Verdict, tuple[str, ...]]]:
        """By backbone and data set, the claims of each verdict, in the papers' order."""
        return {context: _by_verdict(by_claim) for context, by_claim in self.found.items()}


def report(asked: Sequence[str], options: Options, form: str) -> str:
    """The verdicts on the claims `asked` for, by backbone and data set, as Markdown or CSV.

    Args:
        asked: Claims (`lemoe.c3`) or papers (`lemoe`); none: all.
        options: Where the runs are.
        form: markdown, beside (one table, a column for each backbone and data set) or csv.

    Raises:
        AnalysisError: If a claim is unknown, there is no store, or no run in it is asked for.
    """
    return report_of(judge(asked, options), form)


def judge(asked: Sequence[str], options: Options) -> Judgement:
    """Judges the claims `asked` for, as `report` does.

    Args:
        asked: Claims (`lemoe.c3`) or papers (`lemoe`); none: all.
        options: Where the runs are.

    Raises:
        AnalysisError: As `report` does.
    """
    claims = _chosen(asked)
    checks = _checks_on(claims)
    found, missing = _found(checks, options)
    if not found:
        names = ", ".join(dict.fromkeys(check.ablation for check in checks))
        why = f"no ablation in the store tests these claims; they are: {names}"
        raise AnalysisError("; ".join([why, *missing]))
    return Judgement(claims, found, tuple(missing))


def report_of(judged: Judgement, form: str) -> str:
    """A judgement as text; `form` as for `report`."""
    claims, found = judged.claims, judged.found
    lines = [f"- {line}\n" for line in judged.missing]
    if form == "beside":
        return "\n".join([beside(claims, found), *lines])
    over = {claim.claim_id: over_models(claim, found) for claim in claims if claim.over_models}
    if form == "csv":
        frames = [_lines(context, claims, by_claim, over) for context, by_claim in found.items()]
        return str(pd.concat(frames).to_csv(index=False))
    parts = [_markdown(context, claims, by_claim) for context, by_claim in found.items()]
    parts += [over_models_text([claim for claim in claims if claim.over_models], over)]
    return "\n".join([*filter(None, parts), *lines])


def ablations_of(asked: Sequence[str]) -> tuple[str, ...]:
    """The ablations that test the claims `asked` for, each once, in the order of the claims.

    Args:
        asked: Claims (`lemoe.c3`) or papers (`lemoe`); none: all.

    Raises:
        AnalysisError: If a claim is unknown.
    """
    return tuple(dict.fromkeys(check.ablation for check in _checks_on(_chosen(asked))))


def findings(
    checks: Sequence[Check], sections: Mapping[str, Mapping[Context, Section]]
) -> dict[Context, dict[str, tuple[Finding, ...]]]:
    """The findings on each claim, one for each of its comparisons, by backbone and data set.

    Backbones stand in alphabetical order, whichever was run last.

    Args:
        checks: The comparisons.
        sections: Of each ablation that was run, the arms on each backbone and data set.
    """
    records = cache(runs.read_records)  # an arm stands in several comparisons
    found: dict[Context, dict[str, tuple[Finding, ...]]] = {}
    for context in sorted({context for by_context in sections.values() for context in by_context}):
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


def _found(
    checks: Sequence[Check], options: Options
) -> tuple[dict[Context, dict[str, tuple[Finding, ...]]], list[str]]:
    """The findings, and a line on each thing that is not judged, or judged of several stores."""
    names = list(dict.fromkeys(check.ablation for check in checks))
    sections, lines = _judged(names, options)
    lines += [
        runs.lacking_line(each, options.server)
        for each in runs.lacking(options.stores, options.server)
        if each.ablation in names
    ]
    return findings(checks, sections), lines


def _judged(
    ablations: Sequence[str], options: Options
) -> tuple[dict[str, dict[Context, Section]], list[str]]:
    """One section of each ablation that was run, and lines on what is to be known of them.

    Of several protocols that with most trials is judged, the newest of equal ones: a pilot must not
    take the place of a whole run. No section is judged of the part that settings are tuned on, or
    whose serial streams have their updates in an order that no claim is about.
    """
    there = runs.experiments(options.stores, options.server)
    chosen: dict[str, dict[Context, Section]] = {}
    lines: list[str] = []
    for ablation in (each for each in ablations if each in there):
        made = chosen.setdefault(ablation, {})
        left = []
        for section in sorted(_sections(ablation, options), key=_num_trials, reverse=True):
            context = (section.context["backbone"], section.context["dataset"])
            where = f"{ablation} on {', '.join(context)}"
            if orders := update_orders(section):
                lines.append(
                    f"not judged: {where} with protocol.update_order="
                    f"{', '.join(orders)}; the claims are about {PUBLISHED_UPDATES}"
                )
            elif section.context["dataset_part"] == TUNED_ON:
                lines.append(f"not judged: {where}, dataset.part={TUNED_ON}")
            elif context in made:
                left.append((where, made[context], section))
            else:
                made[context] = section
                if len(of := section.provenance["store"]) > 1:
                    lines.append(
                        f"{where} stands in the stores {', '.join(of)}: "
                        "of the same arm and seed the newest trial that finished is judged"
                    )
        lines += [_left_line(*each) for each in left]
    return chosen, lines


def _num_trials(section: Section) -> int:
    return sum(len(arm.seeds) for arm in section.arms)


def _left_line(where: str, judged: Section, left: Section) -> str:
    """Which of two protocols of one ablation is judged, by what they differ in."""
    keys = [
        key
        for key in sorted({*judged.protocol, *left.protocol})
        if judged.protocol.get(key) != left.protocol.get(key)
    ]
    told = [
        f"{_num_trials(section)} trials"
        + (" with " if keys else "")
        + ", ".join(f"protocol.{key}={section.protocol.get(key)}" for key in keys)
        for section in (judged, left)
    ]
    return f"{where}: judged are {told[0]}; left out are {told[1]}"


def _sections(ablation: str, options: Options) -> tuple[Section, ...]:
    """The sections of one ablation, the newest first."""
    rows = runs.read_runs(options.stores, ablation, options.server)
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


def _checks_on(claims: Sequence[Claim]) -> tuple[Check, ...]:
    wanted = {claim.claim_id for claim in claims}
    return tuple(check for check in load_checks() if check.claim_id in wanted)


def _is_of(claim: Claim, word: str) -> bool:
    return claim.claim_id == word or claim.claim_id.startswith(f"{word}.")


def _markdown(
    context: Context, claims: Sequence[Claim], found: Mapping[str, Sequence[Finding]]
) -> str:
    verdicts = {name: verdict_on(own) for name, own in found.items()}
    tally = ", ".join(f"{len(those)} {verdict}" for verdict, those in _by_verdict(found).items())
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


def _by_verdict(found: Mapping[str, Sequence[Finding]]) -> dict[Verdict, tuple[str, ...]]:
    verdicts = {name: verdict_on(own) for name, own in found.items()}
    return {each: tuple(name for name in verdicts if verdicts[name] == each) for each in VERDICTS}


def _claim_lines(claim: Claim, verdict: Verdict, found: Sequence[Finding]) -> list[str]:
    evidence = f"{claim.rests_on}: {claim.published_evidence}"
    caution = [f"- caution: {claim.caution}"] if claim.caution else []
    absent = left_out(found)
    rows = [
        (relation_text(each.check), score_text(each), difference_text(each), each.verdict)
        for each in found
        if each not in absent
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
    names = "; ".join(dict.fromkeys(relation_text(finding.check) for finding in absent))
    return ["", f"- without what was not run ({why}): {names}"]


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
                    "comparison": relation_text(check),
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
                    "caution": finding.caution,
                }
            )
    return pd.DataFrame(lines)
