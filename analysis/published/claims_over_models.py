"""The verdict on a claim that names several models, over every one that was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from analysis.published import paper_numbers
from analysis.published.claim_checks import Finding, Verdict, combined, verdict_on
from analysis.published.claim_list import Claim
from analysis.published.compare import same_name

Context: TypeAlias = tuple[str, str]  # backbone, data set
Found: TypeAlias = Mapping[Context, Mapping[str, Sequence[Finding]]]  # on each claim

LEAST_MODELS = 2
_RULE = (
    "confirmed where it is on each backbone and data set that was run, two backbones at least; "
    "refuted where it is on one of them; undecided otherwise"
)


@dataclass(frozen=True)
class OverModels:
    """What all backbones and data sets say of one claim together.

    Attributes:
        by_context: The verdict of each that was run.
        absent: The paper's models and data sets that were not run, as it prints them.
        nowhere: Ablations of comparisons that are needed once, and were run on none.
    """

    verdict: Verdict
    by_context: Mapping[Context, Verdict]
    absent: tuple[Context, ...]
    nowhere: tuple[str, ...]


def over_models(claim: Claim, found: Found) -> OverModels:
    """The verdict on `claim` over all backbones and data sets of `found`.

    Args:
        claim: One with a table in `over_models`.
        found: The findings on each claim, by backbone and data set.
    """
    own = {context: by_claim.get(claim.claim_id, ()) for context, by_claim in found.items()}
    verdicts = {context: verdict_on(findings) for context, findings in own.items()}
    ran = {context: verdict for context, verdict in verdicts.items() if verdict != "not run"}
    rows = paper_numbers.load(claim.over_models)
    printed = dict.fromkeys((row.model, row.dataset) for row in rows)
    absent = [each for each in printed if not any(_is_same(context, each) for context in ran)]
    once = [each for findings in own.values() for each in findings if each.check.needed == "once"]
    seen = [each.check for each in once if each.verdict != "not run"]
    nowhere = dict.fromkeys(each.check.ablation for each in once if each.check not in seen)
    verdict = combined(list(ran.values()))
    is_whole = len({backbone for backbone, _ in ran}) >= LEAST_MODELS and not nowhere
    if verdict == "confirmed" and not is_whole:
        verdict = "undecided"
    return OverModels(verdict, ran, tuple(absent), tuple(nowhere))


def over_models_text(claims: Sequence[Claim], over: Mapping[str, OverModels]) -> str:
    """The verdicts over several models as Markdown; "" if no such claim was run."""
    parts = [
        _lines(claim, over[claim.claim_id]) for claim in claims if over[claim.claim_id].by_context
    ]
    if not parts:
        return ""
    head = ["## Claims that name several models", "", f"- {_RULE}"]
    return "\n".join([*head, *(line for part in parts for line in part)]) + "\n"


def _lines(claim: Claim, made: OverModels) -> list[str]:
    each = [f"{verdict} on {name}, {data}" for (name, data), verdict in made.by_context.items()]
    lines = ["", f"### {claim.claim_id}: {made.verdict}", "", claim.statement, ""]
    lines += [f"- {'; '.join(each)}"]
    if made.absent:
        names = "; ".join(", ".join(context) for context in made.absent)
        lines += [f"- the paper's models and data sets that were not run: {names}"]
    if made.nowhere:
        lines += [f"- needed once, and run nowhere: {', '.join(made.nowhere)}"]
    return lines


def _is_same(ours: Context, printed: Context) -> bool:
    return all(same_name(mine, theirs) for mine, theirs in zip(ours, printed, strict=True))
