"""What edits change of each task: a panel for each, a line for each method over batch sizes."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from analysis.aggregate import Estimate
from analysis.figures import curve
from analysis.figures.cells import crossed
from analysis.layouts.ability import UNEDITED
from analysis.render.table import Row, Table


def draw(table: Table) -> Figure:
    """The changes; what the unedited backbone scores stands in the title of the panel.

    Raises:
        AnalysisError: If no arm was asked anything.
    """
    own = [row for row in table.rows if row.labels[0] == UNEDITED]
    heads = {
        key: f"{head}{_score(own, place)}" for place, (key, head) in enumerate(table.scores.items())
    }
    rows = tuple(row for row in table.rows if row.labels[0] != UNEDITED)
    figure = curve.over_rows(crossed(replace(table, scores=heads, rows=rows), kept=heads))
    for axes in figure.axes:
        axes.axhline(0, color="#666666", lw=0.8, zorder=0)
        axes.set_ylabel("change")
    return figure


def _score(own: list[Row], place: int) -> str:
    """The score before any edit, in brackets."""
    found = own[0].entries[place].ours if own else None
    return f" (unedited {found.mean:.2f})" if isinstance(found, Estimate) else ""
