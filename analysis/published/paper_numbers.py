"""Loads and checks the published numbers of `paper_tables/<id>.csv`; scores are fractions."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.errors import PaperNumbersError
from analysis.metrics import AVERAGED, METRICS, Metric

FOLDER = Path(__file__).resolve().parents[1] / "paper_tables"

_COUNTS = (
    *("num_edits", "batch_size", "num_concepts", "layer", "num_experts", "top_k", "lora_rank"),
)
_WORDS = ("setting", "dataset", "model", "method", "method_printed", "variant", "note")
_REQUIRED = (
    *("paper", "table", "row", "setting", "dataset", "model", "method", "scale"),
    *(str(METRICS[name].printed_as) for name in AVERAGED),
)
_OTHER_PAPERS = "other_papers"
_GROUPS = tuple(f"n_group{number}" for number in range(1, 6))  # of the same table: edits by group
_DIVISOR = {"percent": 100.0, "fraction": 1.0}
# Two rounded decimals: each metric and the average may be off by half a unit of the last digit.
_AVERAGE_TOLERANCE = {"percent": 0.0002, "fraction": 0.0101}


@dataclass(frozen=True)
class PaperRow:
    """One line of a published table.

    `scores` holds the printed scores by our names of the metrics; shares are in [0, 1].
    """

    table: str  # id of the table, such as lemoe_table9
    row: int  # line in the published table, from 1
    setting: str  # batch, lifelong, ... as the paper's protocol is called in README of the numbers
    dataset: str
    model: str
    method: str
    method_printed: str
    variant: str
    note: str
    num_edits: int | None
    batch_size: int | None
    num_concepts: int | None  # questions of serial editing
    layer: int | None
    num_experts: int | None
    top_k: int | None
    lora_rank: int | None
    scores: Mapping[str, float]

    def score(self, name: str) -> float | None:
        """The published value of our metric `name`; None if the paper does not print it."""
        return self.scores.get(name)


def load(table: str, folder: Path = FOLDER) -> tuple[PaperRow, ...]:
    """All rows of the published table `table`, in printed order.

    Args:
        table: Name of the file without its ending, such as `lemoe_table9`.
        folder: Where the files lie.

    Raises:
        PaperNumbersError: If the file is missing, lacks a column, repeats a row, or holds a value
            that is no number or lies outside [0, 1] after scaling; the message names file, row and
            column.
    """
    rows = tuple(_row(table, cells) for cells in read(table, _REQUIRED, folder))
    numbers = [row.row for row in rows]
    if len(set(numbers)) != len(numbers) or not rows:
        raise PaperNumbersError(f"{table}.csv must hold rows, each row number once")
    return rows


def read(
    table: str, required: Sequence[str], folder: Path = FOLDER
) -> tuple[Mapping[str, str], ...]:
    """The cells of the published table `table` by column, as text.

    Raises:
        PaperNumbersError: If the file is missing or lacks one of the columns `required`.
    """
    path = folder / f"{table}.csv"
    if not path.is_file():
        raise PaperNumbersError(f"no published numbers for {table!r}: {path.name} is not there")
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        missing = [column for column in required if column not in (reader.fieldnames or ())]
        if missing:
            raise PaperNumbersError(f"{path.name} is no table of scores: no {', '.join(missing)}")
        return tuple(reader)


def caveats(table: str, folder: Path = FOLDER) -> tuple[str, ...]:
    """Contradictions between a paper and its own `table`, from `paper_tables/caveats.csv`."""
    rows = read("caveats", ("table", "caveat"), folder)
    return tuple(row["caveat"] for row in rows if row["table"] == table)


def other_papers(rows: Sequence[PaperRow], folder: Path = FOLDER) -> tuple[str, ...]:
    """What other papers print of the protocol of a table, a line for each; compared with nothing.

    Rows that the table prints alike are left out: many tables reprint their baselines.

    Args:
        rows: Published rows of one table; data and models that are not among them do not count.
        folder: Where the files lie.

    Raises:
        PaperNumbersError: As `load` does.
    """
    cells = read(_OTHER_PAPERS, (*_REQUIRED, "beside", "source"), folder)
    tables = {row.table for row in rows}
    shown = {(row.dataset, row.model) for row in rows}
    printed = {_place(row): _averaged(row) for row in rows}
    lines: dict[str, list[str]] = {}
    for cell, row in zip(cells, load(_OTHER_PAPERS, folder), strict=True):
        is_beside = cell["beside"] in tables and (row.dataset, row.model) in shown
        if is_beside and printed.get(_place(row)) != _averaged(row):
            scores = " ".join("-" if score is None else f"{score:.2f}" for score in _averaged(row))
            lines.setdefault(cell["source"], []).append(
                f"{row.method} at T={row.num_edits} {scores}"
            )
    return tuple(f"{source}: {'; '.join(parts)}" for source, parts in lines.items())


def _place(row: PaperRow) -> tuple[object, ...]:
    return row.dataset, row.model, row.method, row.num_edits


def _averaged(row: PaperRow) -> tuple[float | None, ...]:
    return tuple(row.score(name) for name in AVERAGED)


def _row(table: str, cells: Mapping[str, str]) -> PaperRow:
    place = f"{table}.csv row {cells['row']}"
    scale = cells["scale"]
    if scale not in _DIVISOR:
        raise PaperNumbersError(f"{place}: scale is {scale!r}; it must be percent or fraction")
    fields: dict[str, Any] = {"table": table, "row": _count(place, "row", cells["row"])}
    fields |= {name: cells.get(name, "") for name in _WORDS}
    if _GROUPS[0] in cells:
        sizes = [cells[group] for group in _GROUPS if cells[group]]
        fields["variant"] = "-".join(sizes) or cells["evaluation"]
    fields |= {name: _count(place, name, cells.get(name, "")) for name in _COUNTS}
    scores = {
        metric.name: _score(place, metric, cell, scale)
        for metric in METRICS.values()
        if metric.printed_as and (cell := cells.get(metric.printed_as, ""))
    }
    is_checked = cells.get("average_consistent") == "yes" and {*AVERAGED, "average"} <= set(scores)
    if is_checked:
        computed = math.fsum(scores[name] for name in AVERAGED) / len(AVERAGED)
        _check_average(place, computed, scores["average"], _AVERAGE_TOLERANCE[scale])
    return PaperRow(**fields, scores=scores)


def _check_average(place: str, computed: float, printed: float, tolerance: float) -> None:
    if abs(computed - printed) > tolerance:
        raise PaperNumbersError(f"{place}: average {printed:g} does not fit its metrics")


def _count(place: str, column: str, cell: str) -> int | None:
    if not cell:
        return None
    try:
        return int(cell)
    except ValueError:
        raise PaperNumbersError(f"{place}: {column} is {cell!r}, not a whole number") from None


def _score(place: str, metric: Metric, cell: str, scale: str) -> float:
    """The value of a printed cell: a share as a fraction, anything else unchanged."""
    column = metric.printed_as
    try:
        value = float(cell)
    except ValueError:
        raise PaperNumbersError(f"{place}: {column} is {cell!r}, not a number") from None
    if metric.kind != "share":
        return value
    value /= _DIVISOR[scale]
    if not 0 <= value <= 1:
        raise PaperNumbersError(f"{place}: {column} is {cell!r}, outside [0, 1] as {scale}")
    return value
