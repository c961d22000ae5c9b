"""Heat maps: of a grid, ours over the paper's, and of shares from one thing to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analysis.errors import AnalysisError
from analysis.figures.cells import Cell, Column, columns_of, grid_heads, order_of
from analysis.figures.style import framed
from analysis.layouts.grid import GRID_HEADS, NO_POINT
from analysis.render.table import Table

_CELL, _GAP = 0.36, 0.75  # inches
_MOST_WRITTEN = 400  # numbers in all cells; more would not be read
_MAP = "cividis"
At = tuple[str, str]  # label along y, and along x
Panel = tuple[str, Mapping[At, float]]


def of_grid(table: Table, score: str = "average") -> Figure:
    """One score over two swept numbers; a column of panels for each value of the others.

    The lower row of panels is the paper's. What it prints is framed in ours, and a cross stands
    where an arm of ours has no mean.

    Args:
        table: With a label column for each swept number.
        score: Key of the score.

    Raises:
        AnalysisError: If the table is no grid of two swept numbers or more, has not that score, or
            several arms at one point.
    """
    columns = columns_of(table)
    column = _column(columns, score, table)
    heads = grid_heads(table)
    if len(heads) < 2 or not {table.labels[i] for i in heads} <= GRID_HEADS:
        raise AnalysisError(f"{table.title}: a heat map needs a grid of two swept numbers or more")
    points, elsewhere = _points(table, column, heads)
    distinct = [len({point[i] for point in points}) for i in range(len(heads))]
    x = len(heads) - 1
    y = max(range(x), key=lambda i: distinct[i])
    others = [i for i in range(len(heads)) if i not in (x, y)]
    names = [table.labels[heads[i]] for i in (y, x)]
    panels: dict[str, dict[tuple[str, str], Cell]] = {}
    for point in sorted(points, key=lambda each: [order_of(each[i]) for i in (*others, y, x)]):
        title = ", ".join(f"{table.labels[heads[i]]} {point[i]}" for i in others)
        panels.setdefault(title, {})[point[y], point[x]] = points[point]
    ours: list[Panel] = []
    theirs: list[Panel] = []
    crosses: list[set[At]] = []
    for title, cells in panels.items():
        own = {at: cell.ours.mean for at, cell in cells.items() if cell.ours}
        paper = {at: cell.paper for at, cell in cells.items() if cell.paper is not None}
        ours.append((f"{title}\nours" if title else "ours", own))
        theirs.append((f"{title}\npaper" if title else "paper", paper))
        crosses.append({at for at, cell in cells.items() if cell.state})
    has_paper = any(values for _, values in theirs)
    told = [column.score]
    told += ["framed: what the paper prints"] if has_paper else []
    told += ["cross: no mean, as trials failed, diverged or were stopped"] if any(crosses) else []
    told += [f"left out: {elsewhere} rows that are no point of the grid"] if elsewhere else []
    rows = [ours, theirs] if has_paper else [ours]
    frames = [set(values) for _, values in theirs]
    return _drawn(table, rows, names, "; ".join(told), frames, crosses, column.is_share)


def of_shares(table: Table) -> Figure:
    """A map for each group of columns: rows against columns, ours over the paper's.

    Raises:
        AnalysisError: If no cell holds a number.
    """
    columns = columns_of(table)
    ours: list[Panel] = []
    theirs: list[Panel] = []
    for group in dict.fromkeys(column.group for column in columns):
        found = [column for column in columns if column.group == group]
        own, paper = {}, {}
        for column in found:
            for cell in column.cells:
                if cell.ours:
                    own[cell.label, column.score] = cell.ours.mean
                if cell.paper is not None:
                    paper[cell.label, column.score] = cell.paper
        ours.append((f"{group}\nours".strip(), own))
        theirs.append((f"{group}\npaper".strip(), paper))
    rows = [ours, theirs] if any(values for _, values in theirs) else [ours]
    nothing: list[set[At]] = [set() for _ in ours]
    return _drawn(table, rows, ["", ""], "share of a row", nothing, nothing, True)


def _points(
    table: Table, column: Column, heads: Sequence[int]
) -> tuple[dict[tuple[str, ...], Cell], int]:
    """The cells of a grid by their point, and the number of rows that are none of its points."""
    points: dict[tuple[str, ...], Cell] = {}
    elsewhere = 0
    for cell in column.cells:
        labels = [table.rows[cell.row].labels[i] for i in heads]
        elsewhere += NO_POINT in labels
        # A label such as `2, 4` stands for two points.
        for point in product(*([part.strip() for part in each.split(",")] for each in labels)):
            if NO_POINT in point or not (cell.values or cell.state):
                continue
            if point in points:
                raise AnalysisError(
                    f"{table.title}: several arms stand at {', '.join(point)}, which a heat map "
                    "cannot show; kind=dots can"
                )
            points[point] = cell
    if not points:
        raise AnalysisError(f"{table.title}: no cell of the grid holds a number")
    return points, elsewhere


def _column(columns: Sequence[Column], score: str, table: Table) -> Column:
    for column in columns:
        if score in (column.key, column.score):
            return column
    known = ", ".join(column.key for column in columns)
    raise AnalysisError(f"score={score}: {table.title} has no such score; known: {known}")


def _drawn(
    table: Table,
    rows: Sequence[Sequence[Panel]],
    names: Sequence[str],
    legend: str,
    framed_at: Sequence[set[At]],
    crossed_at: Sequence[set[At]],
    is_share: bool,
) -> Figure:
    cells = [at for row in rows for _, values in row for at in values]
    cells += [at for each in crossed_at for at in each]
    ys, xs = (_ordered({at[i] for at in cells}) for i in (0, 1))
    shape = max(2.2, _CELL * len(xs)), max(1.2, _CELL * 0.72 * len(ys))
    margin = 0.5 + 0.065 * max(map(len, ys))
    across, down = max(map(len, rows)), len(rows)
    slanted = 0.03 * max(map(len, xs)) if max(map(len, xs)) > 4 else 0.0
    gap = _GAP + slanted
    width = margin + across * (shape[0] + 0.25) + 0.7
    figure, (_, bottom, _, top) = framed(table, width, down * (shape[1] + gap), legend)
    total = figure.get_size_inches()[1]
    numbers = [value for row in rows for _, values in row for value in values.values()]
    limits = (0.0, 1.0) if is_share else (min(numbers), max(numbers))
    grid = figure.add_gridspec(
        *(down, across),
        left=margin / width,
        right=1 - 0.75 / width,
        bottom=bottom + (0.4 + slanted) / total,
        top=top - 0.38 / total,
        wspace=0.25 / shape[0],
        hspace=gap / shape[1],
    )
    image = None
    for down_at, row in enumerate(rows):
        for place, (title, values) in enumerate(row):
            axes = figure.add_subplot(grid[down_at, place])
            image = _map(axes, values, ys, xs, limits, len(cells) <= _MOST_WRITTEN)
            axes.set_title(title, fontsize=8.5)
            axes.tick_params(length=0, labelleft=place == 0)
            axes.set_ylabel(names[0] if place == 0 else "")
            axes.set_xlabel(names[1])
            for y, x in sorted(framed_at[place]) if down_at == 0 else ():
                corner = xs.index(x) - 0.5, ys.index(y) - 0.5
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="#D55E00", lw=1.6, zorder=4))
            for y, x in sorted(crossed_at[place]) if down_at == 0 else ():
                axes.plot(xs.index(x), ys.index(y), "x", color="#444444", ms=5)
            if slanted:
                axes.set_xticks(range(len(xs)), xs, rotation=30, ha="right", rotation_mode="anchor")
    if image is not None:
        at = [1 - 0.55 / width, bottom + (0.4 + slanted) / total, 0.12 / width]
        free = top - 0.38 / total - at[1]
        figure.colorbar(image, cax=figure.add_axes((at[0], at[1], at[2], free)))
    return figure


def _map(
    axes: Axes,
    values: Mapping[tuple[str, str], float],
    ys: Sequence[str],
    xs: Sequence[str],
    limits: tuple[float, float],
    is_written: bool,
) -> AxesImage:
    cells = np.full((len(ys), len(xs)), np.nan)
    for (y, x), value in values.items():
        cells[ys.index(y), xs.index(x)] = value
    image = axes.imshow(cells, cmap=_MAP, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_facecolor("#EEEEEE")
    axes.grid(visible=False)
    axes.set_xticks(range(len(xs)), xs)
    axes.set_yticks(range(len(ys)), ys)
    middle = (limits[0] + limits[1]) / 2
    for (row, place), value in np.ndenumerate(cells) if is_written else ():
        if not np.isnan(value):
            colour = "white" if value < middle else "black"
            axes.text(
                place, row, f"{value:z.2f}", ha="center", va="center", fontsize=6, color=colour
            )
    return image


def _ordered(labels: set[str]) -> list[str]:
    return sorted(labels, key=order_of)
