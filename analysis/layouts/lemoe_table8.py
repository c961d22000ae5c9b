"""LEMoE Table 8: FFN experts in lifelong editing, by layer."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate import Section
from analysis.compare import spearman
from analysis.layouts.grid import by_point, grid_rows, printed_pairs
from analysis.layouts.layout import SCORES, Body, Layout, correlations, score_pairs
from analysis.paper_numbers import PaperRow

AXES = {"method.edit_layer": "layer"}


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """Rows by layer; the paper prints every layer that it ran, so there is nothing to filter."""
    printed = by_point(paper, tuple(AXES.values()))
    pairs = printed_pairs(section, tuple(AXES), printed)
    found = {name: spearman(score_pairs(pairs, name)) for name in SCORES}
    return Body(
        labels=("Layer", "ours at"),
        scores=SCORES,
        rows=grid_rows(section, tuple(AXES), printed, printed.__contains__),
        paper=tuple(paper),
        footer=(f"Spearman over the layers that both have: {correlations(found)}",),
    )


LAYOUT = Layout(question="LEMoE Table 8: FFN experts, by layer", arrange=arrange)
