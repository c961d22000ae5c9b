"""LEMoE Table 4: routing, embedding level and order planning, one variant a row."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate import Arm, Section
from analysis.compare import spearman
from analysis.layouts.layout import (
    NOT_IN_PAPER,
    NOT_PRINTED,
    SCORES,
    Body,
    Layout,
    correlations,
    entries,
    score_pairs,
)
from analysis.paper_numbers import PaperRow
from analysis.render import Row


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """Rows in the paper's order, variants that we did not run included; further arms below."""
    rows, pairs, placed = [], list[tuple[Arm, PaperRow]](), set[str]()
    for printed in paper:
        arms = [arm for arm in section.arms if printed.variant in _names(arm)]
        lines: list[Arm | None] = [*arms] or [None]
        for arm in lines:
            labels = (printed.method_printed, arm.name if arm else printed.variant)
            rows.append(Row(labels, entries(arm, printed, NOT_PRINTED)))
        pairs += [(arm, printed) for arm in arms]
        placed |= {arm.name for arm in arms}
    strangers = [arm for arm in section.arms if arm.name not in placed]
    rows += [Row(("", arm.name), entries(arm, None, NOT_IN_PAPER)) for arm in strangers]
    found = {name: spearman(score_pairs(pairs, name)) for name in SCORES}
    return Body(
        labels=("Variant", "arm"),
        scores=SCORES,
        rows=tuple(rows),
        paper=tuple(paper),
        footer=(f"Spearman over the variants that both have: {correlations(found)}",),
    )


def _names(arm: Arm) -> tuple[str, ...]:
    return arm.name, arm.method, str(arm.swept.get("arm"))


LAYOUT = Layout(
    question="LEMoE Table 4: which component of LEMoE matters",
    arrange=arrange,
    varying=("order",),  # two variants are orders of the edits
)
