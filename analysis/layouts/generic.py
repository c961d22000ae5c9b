"""The layout of an ablation without a published table: one row per arm, all measured scores."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.aggregate import Section
from analysis.layouts.labels import named
from analysis.layouts.layout import SCORES, Body, Layout, ours
from analysis.metrics import METRICS, digits, headings
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """Rows by arm, in alphabetical order, numbers by size; nothing to compare with, no filter."""
    measured = {name for arm in section.arms for name in arm.scores}
    further = [m.name for m in METRICS.values() if m.has_column and m.name in measured]
    scores = SCORES | headings(further)
    arms = sorted(named(section.arms), key=lambda arm: (arm.ablation, _natural(arm.name)))
    rows = (Row((arm.name,), tuple(Entry(ours(arm, name)) for name in scores)) for arm in arms)
    return Body(labels=("Arm",), scores=scores, rows=tuple(rows), digits=digits(scores))


def _natural(name: str) -> list[str | float]:
    """Sort key by which `edit_layer=4` comes before `edit_layer=10`."""
    parts: list[str | float] = list(re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", name))
    parts[1::2] = map(float, parts[1::2])
    return parts


LAYOUT = Layout(
    question="any ablation by its name: one row per arm",
    arrange=arrange,
    has_paper=False,
    varying=(
        *("num_edits", "edit_batch_size", "num_batches", "order"),
        *("num_questions", "answers_per_question", "update_order"),
    ),
)
