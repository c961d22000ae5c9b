"""Points: one score against another by row, and ours against the paper's over a whole table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.errors import AnalysisError
from analysis.figures.cells import Cell, Column, by_score, columns_of, has_intervals
from analysis.figures.style import bounded, colour_of, framed, marker_of, marks
from analysis.published.variation import rank_correlation
from analysis.render.table import Table, estimate_text

_SIDE, _CHARACTER = 3.2, 0.07  # inches of a panel, and of a letter
_MOST_TICKS = 6
_RANKS = "Spearman"  # how the lines of a table begin that tell a correlation, or go on
Pair = tuple[str, Column, Column]  # group, x, y


def one_against_another(
    table: Table,
    pairs: Sequence[tuple[str, str]],
    *,
    is_named: bool = True,
    spread_of: str | None = None,
) -> Figure:
    """A panel for each pair of scores (x, y) and each group of columns, a point for each row.

    The correlations that the table tells stand below. Where the paper prints y and no x, its mark
    stands at the right edge.

    Args:
        table: What is drawn.
        pairs: Keys of scores without their group, such as `reliability`.
        is_named: Whether rows have a colour and mark of their own; of one cloud of points the axes
            show no more than its extent.
        spread_of: A score whose points stand in a panel before all others, group beside group, with
            the box of their quartiles and whiskers to their ends.

    Raises:
        AnalysisError: If a score is not there.
    """
    columns = columns_of(table)
    panels: list[Pair] = []
    for group in dict.fromkeys(column.group for column in columns):
        found = {column.base: column for column in columns if column.group == group}
        panels += [(group, found[x], found[y]) for x, y in pairs if {x, y} <= found.keys()]
    if not panels:
        wanted = ", ".join(dict.fromkeys(name for pair in pairs for name in pair))
        raise AnalysisError(f"{table.title}: nothing to draw, no group of columns has {wanted}")
    named = _drawn_rows(panels) if is_named else []
    beside = _CHARACTER * max((len(cell.label) for cell in named), default=0) + 0.5 * bool(named)
    both = [cell for _, x, y in panels for cell in _shared(x, y)]
    shown = [Column("", "", "", "", tuple(both))]
    notes = [line for line in table.footer if _RANKS in line]
    edges = {x.score: None for _, x, y in panels if any(map(_is_at_edge, x.cells, y.cells))}
    told = [marks(shown, "crosses")] if shown[0].cells else []
    told += [f"hollow at the right edge: the paper's, which prints no {name}" for name in edges]
    spread = [column for column in columns if column.base == spread_of]
    if spread:
        told.append("boxes: quartiles, whiskers to the least and the largest")
    more = bool(spread)
    legend = "; ".join(filter(None, told))
    figure, places = _panels(table, len(panels) + more, legend, notes, beside)
    if spread:
        _spread(figure.add_subplot(places[0]), spread)
    for place, (group, x, y) in zip(places[more:], panels, strict=True):
        axes = figure.add_subplot(place)
        for one, other in zip(x.cells, y.cells, strict=True):
            _point(axes, one, other, one.row if is_named else 0)
        axes.set_xlabel(x.score)
        axes.set_ylabel(y.score)
        axes.set_title(group, fontsize=8.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(_MOST_TICKS))
        for name, column in (("x", x), ("y", y)) if is_named else ():
            bounded(axes, name, [column])
    if named:
        top = max(axes.get_position().y1 for axes in figure.axes)
        _legend(
            figure,
            [(cell.label, cell.row) for cell in named],
            (1 - beside / figure.get_figwidth(), top),
        )
    return figure


def _spread(axes: Axes, columns: Sequence[Column]) -> None:
    """The points of each column of one score, beside each other."""
    found = [[cell.ours.mean for cell in column.cells if cell.ours] for column in columns]
    numbers = range(1, len(columns) + 1)
    axes.boxplot(found, whis=(0, 100), widths=0.5, medianprops={"color": "#000000"})
    for number, values in zip(numbers, found, strict=True):
        # Side by side in their order, so that equal ones do not hide each other.
        across = [number + 0.3 * (i / max(1, len(values) - 1) - 0.5) for i in range(len(values))]
        axes.plot(across, values, marker_of(0), color=colour_of(0), ms=3.5, alpha=0.7)
    axes.set_xticks(numbers, [column.group or "ours" for column in columns])
    axes.set_ylabel(columns[0].score)
    axes.yaxis.set_major_locator(MaxNLocator(_MOST_TICKS))


def ours_against_theirs(table: Table) -> Figure:
    """A panel for each score, a point for each row and group of columns that both have.

    Each group has a correlation of its own, as below the table.

    Raises:
        AnalysisError: If no cell has both a mean of ours and a published value.
    """
    panels = {
        score: kept
        for score, found in by_score(columns_of(table)).items()
        if (kept := [column for column in found if any(map(_is_pair, column.cells))])
    }
    if not panels:
        raise AnalysisError(f"{table.title}: no cell has both a mean of ours and a published value")
    drawn = [column for found in panels.values() for column in found]
    groups = list(dict.fromkeys(column.group for column in drawn))
    beside = _CHARACTER * max(map(len, groups)) + 0.5 if len(groups) > 1 else 0.0
    told = "line: as published; after a correlation: its 95% interval, and the number of points"
    told = "; ".join((*(["bars: 95% intervals of ours"] if has_intervals(drawn) else []), told))
    figure, places = _panels(table, len(panels), told, (), beside, len(groups))
    for place, (score, found) in zip(places, panels.items(), strict=True):
        axes = figure.add_subplot(place)
        titles = []
        for column in found:
            index = groups.index(column.group)
            ranks = _agreement(axes, column, index)
            titles.append(f"{column.group} {_RANKS} {ranks}".strip())
        axes.set_title("\n".join((score, *titles)), fontsize=8.0)
        axes.set_xlabel("paper")
        axes.set_ylabel("ours")
        for name in ("x", "y"):
            bounded(axes, name, found)
        low, high = (
            max(axes.get_xlim()[0], axes.get_ylim()[0]),
            min(axes.get_xlim()[1], axes.get_ylim()[1]),
        )
        axes.plot([low, high], [low, high], color="#888888", lw=0.8, zorder=1)
    if beside:
        top = max(axes.get_position().y1 for axes in figure.axes)
        _legend(
            figure,
            [(group, index) for index, group in enumerate(groups)],
            (1 - beside / figure.get_figwidth(), top),
        )
    return figure


def _agreement(axes: Axes, column: Column, index: int) -> str:
    """Draw the cells that both have; their rank correlation as text."""
    colour, marker = colour_of(index), marker_of(index)
    pairs = []
    for cell in filter(_is_pair, column.cells):
        own, theirs = cell.values
        pairs.append((own, theirs))
        if cell.interval:
            axes.plot([theirs, theirs], cell.interval, color=colour, lw=0.9, alpha=0.7)
        axes.plot(theirs, own, marker, color=colour, ms=4.5)
    found = rank_correlation(pairs)
    return "undefined" if found is None else estimate_text(found)


def _panels(
    table: Table,
    count: int,
    legend: str,
    notes: Sequence[str],
    beside: float,
    title_lines: int = 1,
) -> tuple[Figure, list[SubplotSpec]]:
    """A figure with so many panels, and `beside` inches free at its right."""
    across = 2 if count == 4 else min(count, 3)
    down = -(-count // across)
    above = 0.25 + 0.16 * title_lines
    figure, (_, bottom, _, top) = framed(
        table,
        0.45 + across * (_SIDE + 0.5) + beside,
        down * (_SIDE + 0.45 + above),
        legend,
        notes,
    )
    width, total = figure.get_size_inches()
    grid = figure.add_gridspec(
        *(down, across),
        left=0.6 / width,
        right=(0.3 + across * (_SIDE + 0.5)) / width,
        bottom=bottom + 0.45 / total,
        top=top - above / total,
        wspace=0.5 / _SIDE,
        hspace=(0.45 + above) / _SIDE,
    )
    return figure, [grid[index // across, index % across] for index in range(count)]


def _point(axes: Axes, one: Cell, other: Cell, index: int) -> None:
    colour, marker = colour_of(index), marker_of(index)
    if one.paper is not None and other.paper is not None:
        axes.plot(one.paper, other.paper, marker, mfc="none", mec=colour, ms=7, zorder=3)
    if _is_at_edge(one, other):
        assert other.paper is not None
        look: Any = {"mfc": "none", "mec": colour, "ms": 7, "clip_on": False}
        where = axes.get_yaxis_transform()
        axes.add_line(Line2D([1.0], [other.paper], marker=marker, transform=where, **look))
    if one.ours is None or other.ours is None:
        return
    x, y = one.ours.mean, other.ours.mean
    if one.interval:
        axes.plot(one.interval, [y, y], color=colour, lw=0.7, alpha=0.6)
    if other.interval:
        axes.plot([x, x], other.interval, color=colour, lw=0.7, alpha=0.6)
    axes.plot(x, y, marker, color=colour, ms=5, zorder=4)


def _legend(figure: Figure, names: Sequence[tuple[str, int]], corner: tuple[float, float]) -> None:
    """What each colour and mark stands for, its upper left corner at `corner`."""
    handles = [
        Line2D([], [], color=colour_of(index), marker=marker_of(index), ls="", label=name)
        for name, index in names
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=corner)


def _drawn_rows(panels: Sequence[Pair]) -> list[Cell]:
    """A cell of each row that has a point in some panel."""
    rows = {cell.row for _, x, y in panels for cell in _shared(x, y)}
    rows |= {
        other.row
        for _, x, y in panels
        for one, other in zip(x.cells, y.cells, strict=True)
        if _is_at_edge(one, other)
    }
    return [cell for cell in panels[0][1].cells if cell.row in rows]


def _shared(x: Column, y: Column) -> list[Cell]:
    """The cells of two columns that are drawn: with what both have of ours and of the paper's."""
    pairs = zip(x.cells, y.cells, strict=True)
    return [
        cell
        for one, other in pairs
        if (one.ours and other.ours) or (one.paper is not None and other.paper is not None)
        for cell in (
            Cell(
                one.row, one.label, one.place, one.ours if other.ours else None, _both(one, other)
            ),
            Cell(
                one.row, one.label, one.place, other.ours if one.ours else None, _both(other, one)
            ),
        )
    ]


def _is_at_edge(one: Cell, other: Cell) -> bool:
    return one.paper is None and other.paper is not None


def _both(one: Cell, other: Cell) -> float | None:
    return one.paper if other.paper is not None else None


def _is_pair(cell: Cell) -> bool:
    return cell.ours is not None and cell.paper is not None
