"""Lines over numbered rows, or over numbered groups of columns, with bands for the intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.cells import Cell, Column, by_score, columns_of, need, number_of
from analysis.figures.style import bounded, colour_of, framed, marker_of
from analysis.metrics import METRICS
from analysis.render.table import Table

_PANEL, _HEIGHT, _MOST_ACROSS = 3.1, 2.3, 3
_MOST_TICKS = 10
_AT_ONCE = ".immediate"  # how the keys of scores right after a batch end


@dataclass(frozen=True)
class Line:
    """One line of a panel: what it stands for, its colour, and (position, cell) pairs."""

    label: str
    series: int
    points: tuple[tuple[str, Cell], ...]
    is_dashed: bool = False


def over_rows(table: Table) -> Figure:
    """Rows along x. With groups a panel for each score, otherwise one for each kind of row."""
    columns = columns_of(table)
    need(columns, table)
    if any(column.group for column in columns):
        panels = {
            score: [_line(column.group, i, column) for i, column in enumerate(found)]
            for score, found in by_score(columns).items()
        }
        return _drawn(table, panels, table.labels[0])
    order = list(dict.fromkeys(_base(column.key) for column in columns))
    if len(order) > 1 and any(column.key.endswith(_AT_ONCE) for column in columns):
        panels = {
            METRICS[name].heading: [_line(c.score, i, c) for c in columns if _base(c.key) == name]
            for i, name in enumerate(order)
        }
        return _drawn(table, panels, table.labels[0])
    kinds = list(dict.fromkeys(_kind(cell.label) for cell in columns[0].cells))
    panels = {
        kind or table.labels[0]: [
            _line(column.score, order.index(_base(column.key)), column, kind) for column in columns
        ]
        for kind in kinds
    }
    return _drawn(table, panels, "")


def over_groups(table: Table) -> Figure:
    """Groups of columns along x; a panel for each score, a line for each row."""
    columns = columns_of(table)
    need(columns, table)
    panels = {}
    for score, found in by_score(columns).items():
        rows = range(len(table.rows))
        panels[score] = [
            Line(
                found[0].cells[row].label,
                row,
                tuple((column.group, column.cells[row]) for column in found),
            )
            for row in rows
        ]
    return _drawn(table, panels, "")


def _line(label: str, series: int, column: Column, kind: str | None = None) -> Line:
    cells = [cell for cell in column.cells if kind is None or _kind(cell.label) == kind]
    return Line(
        label,
        series,
        tuple((cell.label, cell) for cell in cells),
        column.key.endswith(_AT_ONCE),
    )


def _kind(label: str) -> str:
    """The words before a row's number; of a row without one, its first word."""
    found = number_of(label)
    return label.partition(" ")[0] if found is None else found[0].rstrip("_")


def _base(key: str) -> str:
    return key.removesuffix(_AT_ONCE)


def _drawn(table: Table, panels: dict[str, list[Line]], x_name: str) -> Figure:
    across = min(len(panels), _MOST_ACROSS)
    down = -(-len(panels) // across)
    lines = [line for each in panels.values() for line in each]
    has_paper = any(cell.paper is not None for line in lines for _, cell in line.points)
    legend = "bands: 95% intervals" + ("; hollow: the paper's" if has_paper else "")
    labels = dict.fromkeys(line.label for line in lines)
    legend_rows = -(-len(labels) // (2 * across))
    height = down * (_HEIGHT + 0.75) + 0.2 * legend_rows + 0.1
    figure, (_, bottom, _, top) = framed(table, 0.2 + across * _PANEL, height, legend)
    width, total = figure.get_size_inches()
    top -= (0.2 * legend_rows + 0.1) / total
    grid = figure.add_gridspec(
        *(down, across),
        left=0.5 / width,
        right=1 - 0.12 / width,
        bottom=bottom + 0.5 / total,
        top=top - 0.25 / total,
        wspace=0.22,
        hspace=0.75 / _HEIGHT,
    )
    for index, (title, found) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[index // across, index % across])
        places = _places([place for line in found for place, _ in line.points])
        for line in found:
            _plot(axes, line, places.position)
        places.label(axes)
        axes.set_title(title)
        axes.set_xlabel(x_name)
        values = [value for line in found for _, cell in line.points for value in cell.values]
        bounded(axes, "y", values)
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        drawn, told = axes.get_legend_handles_labels()
        handles |= dict(zip(told, drawn, strict=True))
    figure.legend(
        handles=list(handles.values()),
        loc="upper left",
        bbox_to_anchor=(0.0, top + (0.2 * legend_rows + 0.1) / total),
        ncols=2 * across,
    )
    return figure


@dataclass(frozen=True)
class _Places:
    """Where rows stand along x: at their numbers, or else one after another."""

    position: Callable[[str], float]
    names: Sequence[str]
    is_numbered: bool

    def label(self, axes: Axes) -> None:
        if not self.is_numbered:
            axes.set_xticks(range(len(self.names)), self.names, rotation=20, ha="right")
        elif len(self.names) <= _MOST_TICKS:
            numbers = sorted({self.position(name) for name in self.names})
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
            axes.margins(x=0.08)


def _places(labels: Sequence[str]) -> _Places:
    names = list(dict.fromkeys(labels))
    numbers = {name: found[1] for name in names if (found := number_of(name)) is not None}
    if len(numbers) == len(names):
        return _Places(numbers.__getitem__, names, True)
    return _Places(lambda name: float(names.index(name)), names, False)


def _plot(axes: Axes, line: Line, position: Callable[[str], float]) -> None:
    colour, marker = colour_of(line.series), marker_of(line.series)
    style = "--" if line.is_dashed else "-"
    label = line.label
    for run in _runs(line):
        own = sorted((position(at), cell.ours) for at, cell in run if cell.ours is not None)
        if own:
            xs, means = [x for x, _ in own], [each.mean for _, each in own]
            axes.plot(xs, means, style, marker=marker, ms=4, lw=1.3, color=colour, label=label)
            label = "_"  # one entry in the legend for all runs
        known = [(x, e.low, e.high) for x, e in own if e.low is not None and e.high is not None]
        if len(known) > 1:
            at, lows, highs = zip(*known, strict=True)
            axes.fill_between(at, lows, highs, color=colour, alpha=0.15, lw=0)
        for x, low, high in known if len(known) == 1 else ():
            axes.plot([x, x], [low, high], color=colour, lw=1.2)
        paper = sorted((position(at), cell.paper) for at, cell in run if cell.paper is not None)
        if paper:
            at, values = zip(*paper, strict=True)
            axes.plot(at, values, ":", marker=marker, mfc="none", ms=6, lw=0.8, color=colour)


def _runs(line: Line) -> list[list[tuple[str, Cell]]]:
    """The points that are joined: numbered ones of one kind; each of the others stands alone."""
    runs: dict[str, list[tuple[str, Cell]]] = {}
    for at, cell in line.points:
        runs.setdefault(at if number_of(at) is None else _kind(at), []).append((at, cell))
    return list(runs.values())
