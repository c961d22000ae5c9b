"""ARM Figure 5: whether edits reach what learned them, and how well they are answered, by method.

Section 4.4: routing accuracy "reflects the routing algorithm", reliability also what an edit does
to the weights. The figure compares the methods with a memory in plain and in serial editing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.aggregate import Arm, Estimate, Section
from analysis.layouts.directions import EDITS, QUESTIONS, Direction, Position, Positions, by_method
from analysis.layouts.layout import Body, Layout
from analysis.layouts.matrix import Matrix
from analysis.metrics import headings
from analysis.published.compare import KIND_OF_SETTING, plain
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row

_ROUTE = "own_expert_rate"
_METHODS = ("grace", "wise_merge", "wise_retrieval", "arm")
_NO_CHOICE = "wise_merge"


def _stream(kind: str, num_edits: int) -> Position:
    return Position((kind, num_edits), f"{kind} N={num_edits}")


def _streams_of_arm(arm: Arm) -> Positions:
    """The published streams of edits, plain or serial, that an arm stands for."""
    kind, protocol = str(arm.protocol["kind"]), arm.protocol
    if kind != "serial":
        return [_stream(kind, n) for n in arm.published.get(EDITS, [protocol["num_edits"]])]
    questions = arm.published.get(QUESTIONS, [protocol["num_questions"]])
    return [_stream(kind, n * protocol["answers_per_question"]) for n in questions]


def _streams_of_row(row: PaperRow) -> Positions:
    return () if row.num_edits is None else (_stream(KIND_OF_SETTING[row.setting], row.num_edits),)


_MATRIX = Matrix(
    by_method(),
    Direction("Stream", _streams_of_arm, _streams_of_row),
    scores=headings(["average"]),
    extras={_ROUTE: "Route Acc."},  # which no table of the paper prints by method
    methods=frozenset(_METHODS),
    notes=(
        "route acc.: share of edits whose prompt is answered by the expert, memory or entry that "
        "holds the edit; WISE-Merge, whose memories become one, has none to choose among",
        "paper: the figure has no numbers; beside our averages stand those of its Tables 1 and 2",
    ),
)


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per method with a memory, a group of columns per stream."""
    known = {plain(name) for name in _METHODS}
    body = _MATRIX.arrange(
        section, [row for row in paper if plain(row.method) in known], is_filtered
    )
    return replace(body, rows=tuple(_row(row, list(body.scores)) for row in body.rows))


def _row(row: Row, keys: Sequence[str]) -> Row:
    """`row`, without routes where there is nothing to choose."""
    if not plain(row.labels[0]).startswith(plain(_NO_CHOICE)):
        return row
    return replace(row, entries=tuple(map(_unrouted, keys, row.entries)))


def _unrouted(key: str, entry: Entry) -> Entry:
    is_route = key.startswith(_ROUTE) and isinstance(entry.ours, Estimate)
    return replace(entry, ours="-") if is_route else entry


LAYOUT = Layout(
    question="ARM Figure 5: routing accuracy against score, by method, in both protocols",
    arrange=arrange,
    numbers=("arm_table2", "arm_table1"),
    varying=(
        *("kind", "order", "answers", "num_edits", "edit_batch_size", "num_batches"),
        *("num_questions", "answers_per_question"),
    ),
)
