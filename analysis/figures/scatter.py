"""Points: one score against another by row, and ours against the paper's over a whole table."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from analysis.aggregate import Estimate
from analysis.errors import AnalysisError
from analysis.figures.cells import Column, by_score, columns_of, need
from analysis.figures.style import bounded, colour_of, framed, marker_of
from analysis.published.variation import rank_correlation
from analysis.render.table import Table, estimate_text

_SIDE, _CHARACTER = 3.2, 0.065  # inches of a panel, and of a letter


def one_against_another(
    table: Table, pairs: Sequence[tuple[str, str]], *, is_named: bool = True
) -> Figure:
    """A panel for each pair of scores (x, y) and each group of columns, a point for each row.

    Args:
        table: What is drawn.
        pairs: Keys of scores without their group, such as `reliability`.
        is_named: Whether rows have a colour and mark of their own.

    Raises:
        AnalysisError: If a score is not there.
    """
    columns = columns_of(table)
    need(columns, table)
    groups = list(dict.fromkeys(column.group for column in columns))
    panels = []
    for group in groups:
        found = {column.base: column for column in columns if column.group == group}
        panels += [(group, found[x], found[y]) for x, y in pairs if {x, y} <= found.keys()]
    if not panels:
        wanted = ", ".join(dict.fromkeys(name for pair in pairs for name in pair))
        raise AnalysisError(f"{table.title}: nothing to draw, no group of columns has {wanted}")
    shown_columns = [column for _, *both in panels for column in both]
    longest = max(len(cell.label) for cell in shown_columns[0].cells) if is_named else 0
    beside = _CHARACTER * longest + 0.5 * is_named
    figure, places = _panels(table, len(panels), _legend(shown_columns), beside)
    for place, (group, x, y) in zip(places, panels, strict=True):
        axes = figure.add_subplot(place)
        shown = [
            (mine.mean, other.mean)
            for mine, other in zip(_ours(x), _ours(y), strict=True)
            if mine and other
        ]
        _points(axes, x, y, is_named=is_named)
        axes.set_xlabel(x.score)
        axes.set_ylabel(y.score)
        found_rank = rank_correlation(shown)
        told = "" if found_rank is None else f"Spearman {estimate_text(found_rank)}"
        axes.set_title("\n".join(part for part in (group, told) if part), fontsize=8.5)
        for name, column in (("x", x), ("y", y)):
            bounded(axes, name, [value for cell in column.cells for value in cell.values])
    if is_named:
        top = max(axes.get_position().y1 for axes in figure.axes)
        _name(figure, shown_columns, 1 - beside / figure.get_figwidth(), top)
    return figure


def ours_against_theirs(table: Table) -> Figure:
    """A panel for each score, a point for each row and group that both have.

    Raises:
        AnalysisError: If no cell has both a mean of ours and a published value.
    """
    columns = columns_of(table)
    panels = {
        score: pairs
        for score, found in by_score(columns).items()
        if (
            pairs := [
                (c.paper, c.ours)
                for each in found
                for c in each.cells
                if c.paper is not None and c.ours
            ]
        )
    }
    if not panels:
        raise AnalysisError(f"{table.title}: no cell has both a mean of ours and a published value")
    figure, places = _panels(table, len(panels), "95% intervals of ours; line: as published")
    for index, (place, (score, pairs)) in enumerate(zip(places, panels.items(), strict=True)):
        axes = figure.add_subplot(place)
        colour, marker = colour_of(index), marker_of(index)
        for theirs, own in pairs:
            if own.low is not None and own.high is not None:
                axes.plot([theirs, theirs], [own.low, own.high], color=colour, lw=0.9, alpha=0.7)
            axes.plot(theirs, own.mean, marker, color=colour, ms=4.5)
        numbers = [value for theirs, own in pairs for value in (theirs, own.mean)]
        ends = (0.0, 1.0) if all(0 <= v <= 1 for v in numbers) else (min(numbers), max(numbers))
        axes.plot(ends, ends, color="#888888", lw=0.8, zorder=1)
        found = rank_correlation([(own.mean, theirs) for theirs, own in pairs])
        rank = "undefined" if found is None else estimate_text(found)
        axes.set_title(f"{score}: Spearman {rank}", fontsize=8.5)
        axes.set_xlabel("paper")
        axes.set_ylabel("ours")
        for name in ("x", "y"):
            bounded(axes, name, numbers)
    return figure


def _panels(
    table: Table, count: int, legend: str, beside: float = 0.0
) -> tuple[Figure, list[SubplotSpec]]:
    """A figure with so many panels, and `beside` inches free at its right."""
    across = min(count, 3)
    down = -(-count // across)
    shown = "after a correlation: its 95% interval, and the number of points"
    figure, (_, bottom, _, top) = framed(
        table,
        0.3 + across * (_SIDE + 0.5) + beside,
        down * (_SIDE + 0.85),
        f"{legend}; {shown}",
    )
    width, total = figure.get_size_inches()
    grid = figure.add_gridspec(
        *(down, across),
        left=0.6 / width,
        right=1 - (0.15 + beside) / width if beside else (0.3 + across * (_SIDE + 0.5)) / width,
        bottom=bottom + 0.45 / total,
        top=top - 0.4 / total,
        wspace=0.5 / _SIDE,
        hspace=0.85 / _SIDE,
    )
    return figure, [grid[index // across, index % across] for index in range(count)]


def _points(axes: Axes, x: Column, y: Column, *, is_named: bool) -> None:
    for index, (one, other) in enumerate(zip(x.cells, y.cells, strict=True)):
        colour, marker = (colour_of(index), marker_of(index)) if is_named else (colour_of(0), "o")
        if one.paper is not None and other.paper is not None:
            axes.plot(one.paper, other.paper, marker, mfc="none", mec=colour, ms=7, zorder=3)
        if one.ours and other.ours:
            _cross(axes, one.ours, other.ours, colour)
            axes.plot(one.ours.mean, other.ours.mean, marker, color=colour, ms=5, zorder=4)


def _name(figure: Figure, columns: Sequence[Column], left: float, top: float) -> None:
    """A legend with the rows of the columns."""
    handles = [
        Line2D(
            [], [], color=colour_of(cell.row), marker=marker_of(cell.row), ls="", label=cell.label
        )
        for cell in columns[0].cells
        if any(column.cells[cell.row].values for column in columns)
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(left, top))


def _cross(axes: Axes, x: Estimate, y: Estimate, colour: str) -> None:
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.mean, y.mean], color=colour, lw=0.7, alpha=0.6)
    if y.low is not None and y.high is not None:
        axes.plot([x.mean, x.mean], [y.low, y.high], color=colour, lw=0.7, alpha=0.6)


def _ours(column: Column) -> list[Estimate | None]:
    return [cell.ours for cell in column.cells]


def _legend(columns: Sequence[Column]) -> str:
    has_paper = any(cell.paper is not None for column in columns for cell in column.cells)
    return "crosses: 95% intervals" + ("; hollow: the paper's" if has_paper else "")
