"""A finished table, and its cells as text; the only place where a score becomes text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analysis.aggregate import Estimate

PRINTED_DIGITS = 2  # as the papers print
_MOST_OF_SUFFIX = 80  # characters
CELLS = "cells: mean of ours"  # how the note begins that says what a cell holds


@dataclass(frozen=True)
class Entry:
    """One cell: ours (or why there is no mean) and the paper's (or why there is none).

    `paper` is None in tables that have no published counterpart.
    """

    ours: Estimate | str
    paper: float | str | None = None


@dataclass(frozen=True)
class Row:
    """One line of a table: its labels, then its cells.

    A break in a label, as in a setting of several lines, becomes a backslash and an n.
    """

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """Keep each label on one line."""
        shown = tuple(label.replace("\n", "\\n") for label in self.labels)
        object.__setattr__(self, "labels", shown)


@dataclass(frozen=True)
class Table:
    """One printed table.

    Attributes:
        name: Id of the published table or figure, or the ablation's name.
        labels: Headings of the label columns.
        scores: Heading of each score column by its key, which names the CSV column.
        context: Backbone, data, protocol and the like: columns in CSV, lines above other tables.
        notes: Lines below the context, above the table.
        footer: Lines below the table.
        digits: Decimals by score, for scores with other than two.
        groups: Label of the group that a score column is of, which its heading begins with.
        apart: What tells it from other tables of its name that stand beside it, such as `facts`.
    """

    title: str
    labels: tuple[str, ...]
    scores: Mapping[str, str]
    rows: tuple[Row, ...]
    context: Mapping[str, str]
    notes: tuple[str, ...] = ()
    footer: tuple[str, ...] = field(default=())
    digits: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    apart: str = ""

    @property
    def heading(self) -> str:
        """Its title, with what tells it apart."""
        return f"{self.title} ({self.apart})" if self.apart else self.title

    @property
    def suffix(self) -> str:
        """What tells it apart as the end of a file's name; "" where nothing does."""
        return "-" + re.sub(r"[^\w.+]+", "_", self.apart)[:_MOST_OF_SUFFIX] if self.apart else ""


def file_stems(tables: Sequence[Table], name: str) -> tuple[str, ...]:
    """A name for a file of each table: `name`, with what tells it apart, else with its number."""
    suffixes = [table.suffix for table in tables]
    if len(set(suffixes)) < len(tables):
        suffixes = [f"-{number}" for number in range(1, len(tables) + 1)]
    return tuple(f"{name}{suffix}" for suffix in suffixes)


def worded(table: Table, of_cells: str = f"{CELLS} (number of seeds)") -> tuple[str, ...]:
    """The notes of a table where its cells are not those of `entry_text`, which one line tells."""
    return tuple(of_cells if note.startswith(CELLS) else note for note in table.notes)


def entry_text(entry: Entry, digits: int = PRINTED_DIGITS) -> str:
    """A cell in two decimals: `0.83 ± 0.05 (3) / 0.80`, with `[low, high]` for a bootstrap."""
    ours, paper = entry_parts(entry, digits)
    return ours if paper is None else f"{ours} / {paper}"


def entry_parts(entry: Entry, digits: int = PRINTED_DIGITS) -> tuple[str, str | None]:
    """What `entry_text` puts before and behind the stroke; None where there is none."""
    ours = entry.ours if isinstance(entry.ours, str) else estimate_text(entry.ours, digits)
    paper = entry.paper
    return ours, f"{paper:z.{digits}f}" if isinstance(paper, int | float) else paper


def estimate_text(estimate: Estimate, digits: int = PRINTED_DIGITS) -> str:
    """Mean, interval if there is one, and number of seeds in brackets."""
    text, low, high = f"{estimate.mean:z.{digits}f}", estimate.low, estimate.high
    if low is not None and high is not None:
        half = f" ± {(high - low) / 2:.{digits}f}"
        text += half if estimate.source == "t" else f" [{low:z.{digits}f}, {high:z.{digits}f}]"
    return f"{text} ({estimate.num_seeds})"
