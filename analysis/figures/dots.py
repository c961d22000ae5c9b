"""A dot for each row and score, with its interval, and the published value as a hollow mark."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.cells import Cell, Column, by_score, columns_of, crossed
from analysis.figures.style import bounded, colour_of, framed, in_rows, marker_of, marks
from analysis.render.table import Table

_PANEL, _MOST_ACROSS = 2.3, 4
_ROW, _STEP = 0.25, 0.13  # inches of a row, and of each further group in it
_LABEL = 0.068  # inches of a character
_WIDE = 100.0  # largest over least value from which on a linear axis shows the largest alone


def by_first_label(table: Table) -> Figure:
    """As `draw`, with a row for each second label and a mark for each first one."""
    return draw(crossed(table))


def draw(table: Table) -> Figure:
    """One panel for each score; rows as in the table, groups of columns side by side in a row.

    An arm that ran and has no mean says why.

    Raises:
        AnalysisError: If no cell holds a number.
    """
    columns = columns_of(table)
    panels = by_score(columns)
    groups = list(dict.fromkeys(column.group for column in columns))
    rows = [cell for cell in columns[0].cells if _is_drawn(cell.row, columns)]
    across = min(len(panels), _MOST_ACROSS)
    down = -(-len(panels) // across)
    of_row = _ROW + _STEP * (len(groups) - 1)
    margin = 0.25 + _LABEL * max(len(cell.label) for cell in rows)
    height = down * (of_row * len(rows) + 0.65) + 0.3 * (len(groups) > 1)
    figure, (_, bottom, _, top) = framed(table, margin + across * _PANEL, height, marks(columns))
    width, total = figure.get_size_inches()
    if len(groups) > 1:
        handles = [
            Line2D([], [], color=colour_of(i), marker=marker_of(i), linestyle="", label=group)
            for i, group in enumerate(groups)
        ]
        ncols = min(6, len(groups))
        figure.legend(
            handles=in_rows(handles, ncols),
            loc="upper left",
            bbox_to_anchor=(0.0, top),
            ncols=ncols,
        )
        top -= 0.3 / total
    grid = figure.add_gridspec(
        *(down, across),
        left=margin / width,
        right=1 - 0.12 / width,
        bottom=bottom + 0.35 / total,
        top=top - 0.25 / total,
        wspace=0.08,
        hspace=0.65 / (of_row * len(rows)),
    )
    places = {cell.row: place for place, cell in enumerate(rows)}
    for index, (score, found) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[index // across, index % across])
        for column in found:
            order = groups.index(column.group)
            shift = _STEP / of_row * (order - (len(groups) - 1) / 2)
            for cell in column.cells:
                if cell.row in places:
                    _dot(axes, cell, places[cell.row] + shift, order)
        axes.set_title(score)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [cell.label for cell in rows])
        axes.tick_params(axis="y", length=0, labelleft=index % across == 0)
        bounded(axes, "x", found)
        _spread(axes, found)
    return figure


def _spread(axes: Axes, columns: Sequence[Column]) -> None:
    """A logarithmic axis where values above zero are too far apart for any other."""
    shown = [column for column in columns if not column.is_share]
    values = [value for column in shown for cell in column.cells for value in cell.values]
    if values and min(values) > 0 and max(values) > _WIDE * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")


def _dot(axes: Axes, cell: Cell, y: float, series: int) -> None:
    colour, marker = colour_of(series), marker_of(series)
    if cell.paper is not None:
        axes.plot(cell.paper, y, marker, mfc="none", mec=colour, ms=6.5, zorder=3)
    if cell.state:
        # Beside what the paper prints, which stands anywhere; of a share the larger half is left.
        is_left = cell.paper is None or cell.paper > 0.5
        x, side = (0.03, "left") if is_left else (0.97, "right")
        text = axes.text(x, y, cell.state, ha=side, va="center", fontsize=6.5, color=colour)
        text.set_transform(axes.get_yaxis_transform())
    if cell.ours is None:
        return
    if cell.interval:
        axes.plot(cell.interval, [y, y], color=colour, lw=1.2, zorder=2)
    axes.plot(cell.ours.mean, y, marker, color=colour, ms=4.5, zorder=4)


def _is_drawn(row: int, columns: Sequence[Column]) -> bool:
    cells = [column.cells[row] for column in columns]
    return any(cell.values or cell.state for cell in cells)
