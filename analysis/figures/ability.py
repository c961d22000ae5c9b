"""What edits change of each task: a panel for each, a line for each method over batch sizes."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from analysis.aggregate import Estimate
from analysis.figures import curve
from analysis.figures.cells import crossed
from analysis.layouts.ability import CHANGE, RELIABILITY, SCORE, UNEDITED
from analysis.metrics import METRICS
from analysis.render.table import Row, Table

_OF_NUMBERS = "edits in a batch"  # other ticks say it themselves
_LARGE = 20.0  # no share changes by so much


def draw(table: Table) -> Figure:
    """The changes; what the unedited backbone scores stands in the title of the panel.

    Perplexities of a ruined model are drawn on a scale that is logarithmic beyond 1.

    Raises:
        AnalysisError: If no arm was asked anything.
    """
    own = [row for row in table.rows if row.labels[0] == UNEDITED]
    heads = {
        key: f"{head}{_unit(key)}: change{_score(own, place)}"
        for place, (key, head) in enumerate(table.scores.items())
    }
    changes = [key for key in heads if key != RELIABILITY]
    rows = tuple(row for row in table.rows if row.labels[0] != UNEDITED)
    figure = curve.over_rows(crossed(replace(table, scores=heads, rows=rows), kept=changes))
    for axes in figure.axes:
        axes.axhline(0, color="#666666", lw=0.8, zorder=0)
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        axes.set_xlabel(_OF_NUMBERS if all(map(str.isdigit, ticks)) else "")
        low, high = axes.dataLim.intervaly
        if max(-low, high) > _LARGE:
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(min(2 * low, -0.5), max(2 * high, 0.5))
            axes.yaxis.set_major_formatter("{x:g}")
    return figure


def _unit(key: str) -> str:
    """What a change is of, where it is no share."""
    declared = METRICS.get(key.replace(CHANGE, SCORE))
    return "" if declared is None or declared.kind == "share" else f" ({declared.kind})"


def _score(own: list[Row], place: int) -> str:
    """From which score, before any edit."""
    found = own[0].entries[place].ours if own else None
    return f" from {found.mean:.2f}" if isinstance(found, Estimate) else ""
