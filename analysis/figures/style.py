"""What all figures look like, and how one is stored: the same numbers give the same SVG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.cells import Column, has_intervals, has_paper
from analysis.render.files import write_file
from analysis.render.table import Table

LEAST_WIDTH = 6.5  # inches
# Okabe and Ito's colours, which the colour-blind tell apart; each also has a marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_SHOWN = ("backbone", "dataset", "protocol", "measure", "seeds", "commit")  # of a table's context
# How the notes begin that every figure needs.
_NOTED = ("differs from the paper: ", "columns ", "mixed method.")
_TIED = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"  # `n = 8` stays on one line
_CHARACTERS_PER_INCH = 15.5  # of the small print
_SMALL = 7.0
_LINE = _SMALL * 1.35 / 72  # inches

_SETTINGS: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "text.parse_math": False,  # a name with dollars is a name
    "svg.hashsalt": "figure",  # otherwise ids are drawn at random
    "svg.fonttype": "none",  # text that can be searched, copied and read aloud
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


@contextmanager
def styled() -> Iterator[None]:
    """Within the block figures are drawn in this style; nothing of it stays."""
    with mpl.rc_context(mpl.rcParamsDefault), mpl.rc_context(_SETTINGS):
        yield


def colour_of(index: int) -> str:
    """The colour of series number `index`; they repeat after seven."""
    return COLOURS[index % len(COLOURS)]


def marker_of(index: int) -> str:
    """The marker of series number `index`; colour and marker together repeat after 49."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def framed(
    table: Table, width: float, height: float, legend: str = "", notes: Sequence[str] = ()
) -> tuple[Figure, tuple[float, float, float, float]]:
    """An empty figure with its title above and the small print below.

    Args:
        table: Whose title and context are printed.
        width: Inches; a figure is at least 6.5 wide.
        height: Inches that the axes and what is written at them take.
        legend: What marks mean.
        notes: Further lines of small print.

    Returns:
        The figure, and left, bottom, right and top of what is free, as shares of it.
    """
    width = max(width, LEAST_WIDTH)
    print_width = int(width * _CHARACTERS_PER_INCH)
    told = " · ".join(f"{key}: {table.context[key]}" for key in _SHOWN if key in table.context)
    noted = " · ".join(note for note in table.notes if note.startswith(_NOTED))
    lines = [
        part.replace(_TIED, " = ")
        for text in (told, noted, legend, *notes)
        for part in textwrap.wrap(text.replace(" = ", _TIED), print_width)
    ]
    title = textwrap.wrap(table.heading, int(width * 11))
    above, below = 0.12 + 0.19 * len(title), 0.12 + _LINE * len(lines)
    total = height + above + below
    figure = Figure(figsize=(width, total))
    figure.text(0.01, 1 - 0.06 / total, "\n".join(title), va="top", fontsize=10.5, weight="bold")
    figure.text(
        *(0.01, 0.05 / total, "\n".join(lines)), va="bottom", fontsize=_SMALL, color="#333333"
    )
    return figure, (0.0, below / total, 1.0, 1 - above / total)


def bounded(axes: Axes, name: str, columns: Sequence[Column]) -> None:
    """Show the whole range of a share on the axis `name`, x or y, if all columns are shares.

    Intervals may go beyond it, as Student's do.
    """
    if all(column.is_share for column in columns):
        limits = axes.set_xlim if name == "x" else axes.set_ylim
        limits(-0.04, 1.04)


def in_rows(handles: Sequence[Artist], num_columns: int) -> list[Artist]:
    """The entries of a legend so that they are read along its rows; Matplotlib fills columns."""
    return [each for column in range(num_columns) for each in handles[column::num_columns]]


def marks(columns: Sequence[Column], intervals: str = "lines") -> str:
    """What the marks of a figure mean, for its small print."""
    said = [f"{intervals}: 95% intervals"] if has_intervals(columns) else []
    said += ["hollow: the paper's"] if has_paper(columns) else []
    return "; ".join(said)


def store(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the path's suffix, without the time.

    Raises:
        OutputError: If it cannot be written; nothing is left of the attempt.
    """
    form = path.suffix.removeprefix(".")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}}
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, metadata=dates.get(form))
    write_file(path, drawn.getvalue(), "out")
