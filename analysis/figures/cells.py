"""What a table holds, as a figure reads it: by score, by group of columns and by row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from analysis.aggregate import Estimate
from analysis.errors import AnalysisError
from analysis.layouts.layout import SCORES
from analysis.published.compare import plain
from analysis.render.table import Entry, Row, Table

OURS_AT = ("ours", "ours at")  # label columns that say which arm of ours a row is
_NUMBER = re.compile(r"^(?P<words>.*?)[ =]*(?P<number>-?\d+(?:\.\d+)?)$")


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        row: Number of its row.
        label: Of the row, without the arm of ours.
        ours: None where there is no mean.
        paper: None where nothing is printed.
    """

    row: int
    label: str
    ours: Estimate | None
    paper: float | None

    @property
    def values(self) -> tuple[float, ...]:
        """Our mean and the paper's value, as far as there are such."""
        own = None if self.ours is None else self.ours.mean
        return tuple(value for value in (own, self.paper) if value is not None)


@dataclass(frozen=True)
class Column:
    """One column of scores.

    Attributes:
        key: In the table.
        base: The key without its group.
        score: Heading without the group's label.
        group: Label of the group of columns; "" if there is none.
        cells: One for each row.
    """

    key: str
    base: str
    score: str
    group: str
    cells: tuple[Cell, ...]


def columns_of(table: Table) -> tuple[Column, ...]:
    """The columns of a table, those without a single number left out."""
    labels = [label_of(table, row) for row in table.rows]
    found = []
    for place, (key, heading) in enumerate(table.scores.items()):
        group = table.groups.get(key, "")
        cells = tuple(
            _cell(number, label, row.entries[place].ours, row.entries[place].paper)
            for number, (label, row) in enumerate(zip(labels, table.rows, strict=True))
        )
        if any(cell.values for cell in cells):
            base = key.removesuffix(f"_{plain(group)}") if group else key
            found.append(Column(key, base, heading.removeprefix(group).strip(), group, cells))
    return tuple(found)


def by_score(columns: Sequence[Column]) -> Mapping[str, list[Column]]:
    """The columns by the heading of their score, in the order of the table."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(column.score, []).append(column)
    return found


def label_of(table: Table, row: Row) -> str:
    """The labels of a row in one line, without the arm of ours where there is another.

    A label that the next one begins with says nothing more, such as a method before its arm.
    """
    pairs = zip(table.labels, row.labels, strict=True)
    kept = [label for head, label in pairs if head not in OURS_AT and label] or list(row.labels)
    said = [one for one, after in pairwise((*kept, "")) if not after.startswith(one)]
    return " · ".join(said)


def crossed(table: Table) -> Table:
    """The table with a row for each second label, and the first ones as groups of columns.

    Only the main scores stay.
    """
    firsts = list(dict.fromkeys(row.labels[0] for row in table.rows))
    seconds = list(dict.fromkeys(row.labels[1] for row in table.rows))
    places = [(i, key, head) for i, (key, head) in enumerate(table.scores.items()) if key in SCORES]
    found = {row.labels[:2]: row for row in table.rows}
    absent = Entry("not run")

    def entry(first: str, second: str, place: int) -> Entry:
        row = found.get((first, second))
        return absent if row is None else row.entries[place]

    keys = {f"{key}_{plain(first)}": (first, head) for first in firsts for _, key, head in places}
    return replace(
        table,
        labels=(table.labels[1],),
        scores={key: f"{first} {head}" for key, (first, head) in keys.items()},
        rows=tuple(
            Row((second,), tuple(entry(first, second, i) for first in firsts for i, *_ in places))
            for second in seconds
        ),
        groups={key: first for key, (first, _) in keys.items()},
    )


def number_of(label: str) -> tuple[str, float] | None:
    """The words before the number that ends a label, and the number; None if there is none."""
    match = _NUMBER.match(label)
    return (match["words"].strip(), float(match["number"])) if match else None


def need(columns: Sequence[Column], table: Table) -> None:
    """Raises AnalysisError if there is nothing to draw."""
    if not columns:
        raise AnalysisError(f"{table.title}: nothing to draw, no cell holds a number")


def _cell(number: int, label: str, ours: Estimate | str, paper: float | str | None) -> Cell:
    return Cell(
        number,
        label,
        ours if isinstance(ours, Estimate) else None,
        float(paper) if isinstance(paper, int | float) else None,
    )
