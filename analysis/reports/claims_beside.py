"""The verdicts on claims with one column for each backbone and data set that was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.published.claim_checks import Finding, Verdict, verdict_on
from analysis.published.claim_list import Claim
from analysis.published.claims_over_models import Context, Found
from analysis.reports.comparison_text import difference_text, relation_text, score_text

_ABSENT: Verdict = "not run"
_NOTE = (
    "difference: first less second, mean over seeds (their number) with its 95% interval; what "
    "each comparison demands stands in the report that is not format=beside"
)


def beside(claims: Sequence[Claim], found: Found) -> str:
    """The verdicts, then every comparison that was run anywhere, as Markdown tables.

    Args:
        claims: In the order in which they are shown; what was run nowhere is named below.
        found: The findings on each claim, by backbone and data set.
    """
    heads = {context: _head(context) for context in found}
    verdicts = {
        claim.claim_id: {
            context: verdict_on(by_claim[claim.claim_id]) for context, by_claim in found.items()
        }
        for claim in claims
    }
    shown = [claim for claim in claims if set(verdicts[claim.claim_id].values()) != {_ABSENT}]
    lines = [f"## Published claims on {', '.join(heads.values())}", ""]
    rows = [
        {"Claim": claim.claim_id, **_by_head(heads, verdicts[claim.claim_id])} for claim in shown
    ]
    lines += [pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True), "", f"- {_NOTE}"]
    for claim in shown:
        by_context = {context: by_claim[claim.claim_id] for context, by_claim in found.items()}
        lines += ["", f"### {claim.claim_id}", "", claim.statement, ""]
        table = pd.DataFrame(_comparisons(heads, by_context))
        lines += [table.to_markdown(index=False, disable_numparse=True)]
    nowhere = [claim.claim_id for claim in claims if claim not in shown]
    if nowhere:
        lines += ["", f"- run nowhere: {', '.join(nowhere)}"]
    return "\n".join(lines) + "\n"


def _comparisons(
    heads: Mapping[Context, str], by_context: Mapping[Context, Sequence[Finding]]
) -> list[dict[str, str]]:
    """One row for each comparison that was run on some backbone, in the order of the claim."""
    cells: dict[tuple[str, str, str], dict[Context, Finding]] = {}
    for context, findings in by_context.items():
        for finding in findings:
            check = finding.check
            key = (relation_text(check), check.score, check.ablation)
            cells.setdefault(key, {})[context] = finding
    rows = []
    for (comparison, *_), own in cells.items():
        ran = {context: each for context, each in own.items() if each.verdict != _ABSENT}
        if ran:
            said = {key: f"{difference_text(each)}: {each.verdict}" for key, each in ran.items()}
            score = score_text(next(iter(ran.values())))
            rows.append({"Comparison": comparison, "Score": score, **_by_head(heads, said)})
    return rows


def _by_head(heads: Mapping[Context, str], cells: Mapping[Context, str]) -> dict[str, str]:
    return {head: cells.get(context, _ABSENT) for context, head in heads.items()}


def _head(context: Context) -> str:
    backbone, dataset = context
    return backbone if backbone == dataset else f"{backbone}, {dataset}"
