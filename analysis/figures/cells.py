"""What a table holds, as a figure reads it: by score, by group of columns and by row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from analysis.aggregate import Estimate
from analysis.errors import AnalysisError
from analysis.layouts.layout import NOT_IN_PAPER, NOT_RUN, SCORES
from analysis.metrics import metric
from analysis.published.compare import plain
from analysis.render.table import Entry, Row, Table

OURS_AT = ("ours", "ours at")  # label columns that say which arm of ours a row is
_NO_STATE = (NOT_RUN, "not measured", "-")  # of a cell that no trial was to fill
# A number of its own: behind a blank, "=" or "top_", or alone; `memoe_v2` ends with none.
_NUMBER = re.compile(
    r"^(?P<words>.*[ =]|.*\btop_|)(?P<number>-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$", re.IGNORECASE
)
_AT_ONCE = ".immediate"  # how the keys of scores right after a batch end


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        row: Number of its row.
        label: Of the row, with our arm where others would have the same.
        place: The same without our arm.
        ours: None where there is no mean.
        paper: None where nothing is printed.
        state: Why arms of ours that ran have no mean, such as `failed 1/3`; else "".
    """

    row: int
    label: str
    place: str
    ours: Estimate | None
    paper: float | None
    state: str = ""

    @property
    def values(self) -> tuple[float, ...]:
        """Our mean and the paper's value, as far as there are such."""
        own = None if self.ours is None else self.ours.mean
        return tuple(value for value in (own, self.paper) if value is not None)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the interval of our mean."""
        if self.ours is None or self.ours.low is None or self.ours.high is None:
            return None
        return self.ours.low, self.ours.high


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

    @property
    def is_share(self) -> bool:
        """Whether it is a share by what it measures, not by what was found."""
        declared = metric(self.base.removesuffix(_AT_ONCE))
        if declared is not None:
            return declared.kind == "share"
        return all(0 <= value <= 1 for cell in self.cells for value in cell.values)

    @property
    def is_at_once(self) -> bool:
        """Whether it was measured right after each batch."""
        return self.base.endswith(_AT_ONCE)

    @property
    def measured(self) -> str:
        """What it measures, whenever it does."""
        return self.base.removesuffix(_AT_ONCE)


def columns_of(table: Table) -> tuple[Column, ...]:
    """The columns of a table, those without a single number or state left out.

    Raises:
        AnalysisError: If there is nothing to draw.
    """
    labels, places = _labels(table)
    found = []
    for at, (key, heading) in enumerate(table.scores.items()):
        group = table.groups.get(key, "")
        base = key.removesuffix(f"_{plain(group)}") if group else key
        cells = tuple(
            _cell(number, labels[number], places[number], row.entries[at])
            for number, row in enumerate(table.rows)
        )
        if any(cell.values for cell in cells):
            score = heading.removeprefix(group).strip(" :")
            found.append(Column(key, base, score, group.rstrip(":"), cells))
    if not found:
        raise AnalysisError(f"{table.title}: nothing to draw, no cell holds a number")
    return tuple(found)


def by_score(columns: Sequence[Column]) -> Mapping[str, list[Column]]:
    """The columns by the heading of their score, in the order of the table."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(column.score, []).append(column)
    return found


def number_of(label: str) -> tuple[str, float] | None:
    """The words before the number that ends a label, and the number; None if there is none."""
    match = _NUMBER.match(label)
    return (match["words"].strip(" =_"), float(match["number"])) if match else None


def order_of(label: str) -> tuple[str, float]:
    """Sort key: by the words of a label, then by its number."""
    return number_of(label) or (label, 0.0)


def grid_heads(table: Table) -> list[int]:
    """Places of the label columns that say where a row is, without the arm of ours."""
    return [place for place, head in enumerate(table.labels) if head not in OURS_AT]


def has_intervals(columns: Sequence[Column]) -> bool:
    """Whether any mean of ours has an interval."""
    return any(cell.interval for column in columns for cell in column.cells)


def has_paper(columns: Sequence[Column]) -> bool:
    """Whether anything printed is drawn."""
    return any(cell.paper is not None for column in columns for cell in column.cells)


def crossed(table: Table, kept: Collection[str] = SCORES) -> Table:
    """The table with a row for each second label, and the first ones as groups of columns.

    Only the scores that are `kept` stay.

    Raises:
        AnalysisError: If two rows have the same two labels.
    """
    firsts = list(dict.fromkeys(row.labels[0] for row in table.rows))
    seconds = list(dict.fromkeys(row.labels[1] for row in table.rows))
    places = [(i, key, head) for i, (key, head) in enumerate(table.scores.items()) if key in kept]
    found = {row.labels[:2]: row for row in table.rows}
    if len(found) < len(table.rows):
        raise AnalysisError(f"{table.title}: several rows have the same two labels")
    absent = Entry(NOT_RUN)

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


def scores_of(table: Table, kept: Collection[str] = SCORES) -> Table:
    """The table with those columns alone, by key without group, that are `kept`."""
    places = [place for place, key in enumerate(table.scores) if key in kept]
    return replace(
        table,
        scores={key: head for key, head in table.scores.items() if key in kept},
        rows=tuple(Row(row.labels, tuple(row.entries[i] for i in places)) for row in table.rows),
    )


def _labels(table: Table) -> tuple[list[str], list[str]]:
    """The label of each row, and its place."""
    heads = grid_heads(table)
    named = [[*map(_named, table.labels, row.labels)] for row in table.rows]
    short = [_joined([labels[i] for i in heads]) for labels in named]
    counts = Counter(short)
    whole = [_joined(labels) for labels in named]
    labels = [one if counts[one] == 1 else long for one, long in zip(short, whole, strict=True)]
    return labels, short


def _named(head: str, label: str) -> str:
    """A label that is a number alone says nothing without the heading of its column."""
    found = number_of(label)
    return f"{head} {label}" if found is not None and not found[0] else label


def _joined(labels: Sequence[str]) -> str:
    """Labels in one line; a name that the next one goes on from says nothing more."""
    kept = [label for label in labels if label not in ("", NOT_IN_PAPER)]
    said = [one for one, after in pairwise((*kept, "")) if not f"{after}_".startswith(f"{one}_")]
    return " · ".join(said)


def _cell(number: int, label: str, place: str, entry: Entry) -> Cell:
    ours, paper = entry.ours, entry.paper
    is_state = isinstance(ours, str) and ours not in _NO_STATE
    return Cell(
        number,
        label,
        place,
        ours if isinstance(ours, Estimate) else None,
        float(paper) if isinstance(paper, int | float) else None,
        str(ours) if is_state else "",
    )
