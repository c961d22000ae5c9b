"""Lines over numbered rows, or over numbered groups of columns, with bands for the intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.errors import AnalysisError
from analysis.figures.cells import Cell, Column, by_score, columns_of, number_of
from analysis.figures.style import bounded, colour_of, framed, in_rows, marker_of, marks
from analysis.metrics import METRICS
from analysis.render.table import Table

_PANEL, _HEIGHT, _MOST_ACROSS = 3.1, 2.3, 3
_MOST_TICKS = 10
_LETTER = 0.065  # inches
_MOST_LEVEL, _ANGLE, _STEEP = 6, 20, 40  # names along x, and by how many degrees they are turned


@dataclass(frozen=True)
class Line:
    """One line of a panel: what it stands for, its colour, and (position, cell) pairs."""

    label: str
    series: int
    points: tuple[tuple[str, Cell], ...]
    is_dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """The lines of one panel, and the columns that they are of."""

    lines: Sequence[Line]
    columns: Sequence[Column]


def over_rows(table: Table) -> Figure:
    """Rows along x. With groups a panel for each score, otherwise one for each kind of row.

    Raises:
        AnalysisError: If no cell holds a number, or no row is numbered.
    """
    columns = columns_of(table)
    if not any(number_of(cell.place) for cell in columns[0].cells):
        raise AnalysisError(f"{table.title}: no curve, as no row has a number")
    if any(column.group for column in columns):
        panels = {
            score: Panel([_line(column.group, i, column) for i, column in enumerate(found)], found)
            for score, found in by_score(columns).items()
        }
        return _drawn(table, columns, panels, table.labels[0])
    order = list(dict.fromkeys(column.measured for column in columns))
    if len(order) > 1 and any(column.is_at_once for column in columns):
        by_measured = {
            name: [column for column in columns if column.measured == name] for name in order
        }
        panels = {
            METRICS[name].heading: Panel([_line(c.score, i, c) for c in found], found)
            for i, (name, found) in enumerate(by_measured.items())
        }
        return _drawn(table, columns, panels, table.labels[0])
    kinds = _kinds([cell.place for cell in columns[0].cells])
    panels = {
        kind or table.labels[0]: Panel(
            [_line(c.score, order.index(c.measured), c, places) for c in columns], columns
        )
        for kind, places in kinds.items()
    }
    return _drawn(table, columns, panels, "")


def over_groups(table: Table) -> Figure:
    """Groups of columns along x; a panel for each score, a line for each row.

    Raises:
        AnalysisError: If no cell holds a number.
    """
    columns = columns_of(table)
    panels = {}
    for score, found in by_score(columns).items():
        lines = [
            Line(
                found[0].cells[row].label,
                row,
                tuple((column.group, column.cells[row]) for column in found),
            )
            for row in range(len(table.rows))
        ]
        panels[score] = Panel(lines, found)
    numbered = [number_of(column.group) for column in columns]
    names = {found[0] for found in numbered if found is not None}
    return _drawn(table, columns, panels, names.pop() if len(names) == 1 else "")


def _line(label: str, series: int, column: Column, places: Collection[str] | None = None) -> Line:
    cells = [cell for cell in column.cells if places is None or cell.place in places]
    points = tuple((cell.place, cell) for cell in cells)
    return Line(label, series, points, column.is_at_once)


def _kinds(places: Sequence[str]) -> Mapping[str, list[str]]:
    """The places of each panel; `routing top_2` stands where `routing soft` does."""
    alone = {_kind(place) for place in places if number_of(place) is None}
    found: dict[str, list[str]] = {}
    for place in places:
        kind = _kind(place)
        first = kind.partition(" ")[0]
        found.setdefault(first if first in alone else kind, []).append(place)
    return found


def _kind(label: str) -> str:
    """The words before a row's number; of a row without one, its first word."""
    found = number_of(label)
    return label.partition(" ")[0] if found is None else found[0]


def _drawn(
    table: Table, columns: Sequence[Column], panels: Mapping[str, Panel], x_name: str
) -> Figure:
    across = 2 if len(panels) == 4 else min(len(panels), _MOST_ACROSS)
    down = -(-len(panels) // across)
    placed = {
        title: _places([place for line in panel.lines for place, _ in line.points], title)
        for title, panel in panels.items()
    }
    below = max(each.below for each in placed.values())
    labels = dict.fromkeys(line.label for panel in panels.values() for line in panel.lines)
    legend_rows = -(-len(labels) // (2 * across))
    height = down * (_HEIGHT + 0.75 + below) + 0.2 * legend_rows + 0.1
    figure, (_, bottom, _, top) = framed(
        table, 0.2 + across * _PANEL, height, marks(columns, "bands")
    )
    width, total = figure.get_size_inches()
    top -= (0.2 * legend_rows + 0.1) / total
    grid = figure.add_gridspec(
        *(down, across),
        left=0.5 / width,
        right=1 - 0.12 / width,
        bottom=bottom + (0.5 + below) / total,
        top=top - 0.25 / total,
        wspace=0.22,
        hspace=(0.75 + below) / _HEIGHT,
    )
    handles: dict[str, Artist] = {}
    for index, (title, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[index // across, index % across])
        places = placed[title]
        for later, line in zip(range(len(panel.lines))[::-1], panel.lines, strict=True):
            _plot(axes, line, places.position, 4.0 + min(3.0, 0.8 * later))
        if not any(cell.ours for line in panel.lines for _, cell in line.points):
            axes.text(0.5, 0.06, "ours: not run", transform=axes.transAxes, ha="center")
        places.label(axes)
        axes.set_title(title)
        axes.set_xlabel(x_name)
        bounded(axes, "y", panel.columns)
        drawn, told = axes.get_legend_handles_labels()
        handles |= dict(zip(told, drawn, strict=True))
    figure.legend(
        handles=in_rows(list(handles.values()), 2 * across),
        loc="upper left",
        bbox_to_anchor=(0.0, top + (0.2 * legend_rows + 0.1) / total),
        ncols=2 * across,
    )
    return figure


@dataclass(frozen=True)
class _Places:
    """Where rows stand along x: at their numbers, or else one after another."""

    position: Callable[[str], float]
    names: Sequence[str]  # the panel's title, which all may begin with, left out
    numbers: Sequence[float] | None

    @property
    def angle(self) -> int:
        """Degrees by which names are turned."""
        return _ANGLE if len(self.names) <= _MOST_LEVEL else _STEEP

    @property
    def below(self) -> float:
        """Inches that turned names take more than numbers."""
        if self.numbers is not None:
            return 0.0
        longest = max(map(len, self.names)) * _LETTER
        return max(0.0, math.sin(math.radians(self.angle)) * longest - 0.1)

    def label(self, axes: Axes) -> None:
        """Write numbers or names below the axis."""
        if self.numbers is None:
            axes.set_xticks(
                range(len(self.names)),
                self.names,
                rotation=self.angle,
                ha="right",
                rotation_mode="anchor",
            )
        elif len(self.numbers) <= _MOST_TICKS:
            axes.set_xticks(self.numbers, [f"{number:g}" for number in self.numbers])
            axes.margins(x=0.08)
        elif all(number.is_integer() for number in self.numbers):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _places(labels: Sequence[str], title: str) -> _Places:
    names = list(dict.fromkeys(labels))
    numbers = {name: found[1] for name in names if (found := number_of(name)) is not None}
    if len(numbers) == len(names):
        return _Places(numbers.__getitem__, names, sorted(set(numbers.values())))
    shown = [name.removeprefix(f"{title} ") for name in names]
    return _Places(lambda name: float(names.index(name)), shown, None)


def _plot(axes: Axes, line: Line, position: Callable[[str], float], size: float) -> None:
    """Draw one line; earlier ones have larger marks, so that one which is covered can be seen."""
    colour, marker = colour_of(line.series), marker_of(line.series)
    style = "--" if line.is_dashed else "-"
    label = line.label
    for run in _runs(line):
        own = sorted((position(at), cell.ours.mean) for at, cell in run if cell.ours)
        if own:
            xs, means = zip(*own, strict=True)
            axes.plot(xs, means, style, marker=marker, ms=size, lw=1.3, color=colour, label=label)
            label = "_"  # one entry in the legend for all runs
        known = sorted((position(at), *cell.interval) for at, cell in run if cell.interval)
        if len(known) > 1:
            at, lows, highs = zip(*known, strict=True)
            axes.fill_between(at, lows, highs, color=colour, alpha=0.15, lw=0)
        for x, low, high in known if len(known) == 1 else ():
            axes.plot([x, x], [low, high], color=colour, lw=1.2)
        paper = sorted((position(at), cell.paper) for at, cell in run if cell.paper is not None)
        if paper:
            at, values = zip(*paper, strict=True)
            axes.plot(
                *(at, values, ":"),
                marker=marker,
                mfc="none",
                ms=size + 2,
                lw=0.8,
                color=colour,
                label=label if not own else "_",
            )
            label = "_"


def _runs(line: Line) -> list[list[tuple[str, Cell]]]:
    """The points that are joined: numbered ones of one kind; each of the others stands alone.

    Where several arms stand at one place, the first of each are joined, and the second, and so on.
    """
    runs: dict[tuple[str, int], list[tuple[str, Cell]]] = {}
    times: Counter[str] = Counter()
    for at, cell in line.points:
        kind = at if number_of(at) is None else _kind(at)
        runs.setdefault((kind, times[at]), []).append((at, cell))
        times[at] += 1
    return list(runs.values())
