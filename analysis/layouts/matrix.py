"""The layout that most published tables share: rows, groups of columns, scores in each group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from analysis.aggregate import Arm, Section
from analysis.layouts.directions import Direction, Position
from analysis.layouts.labels import apart, with_words
from analysis.layouts.layout import (
    NOT_IN_PAPER,
    NOT_RUN,
    SCORES,
    Body,
    Layout,
    correlations,
    ours,
    score_pairs,
    theirs,
)
from analysis.metrics import digits
from analysis.published.compare import plain, same_name, spearman
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row

# The model that most published tables are about; the one to stand beside a backbone of our own.
_MODEL = "LLaMA2-7B"
_STAND_INS = {"facts_gpt2": "GPT2-XL"}
Cell: TypeAlias = tuple[Position, Position]  # row, group of columns

_ALL = Position("", "")  # the only group of columns of a table without groups
_SIZES = ("num_edits", "edit_batch_size", "num_questions", "answers_per_question", "num_batches")
_SIZE_WORDS = {
    "serial": "{num_questions} questions x {answers_per_question} answers",
    "batch": "{num_batches} batch(es) of {num_edits}",
    "single": "{num_edits} single edits",
    "lifelong": "{num_edits} edits in batches of {edit_batch_size}",
}


@dataclass(frozen=True)
class Matrix:
    """How one published table is arranged.

    Attributes:
        rows: What tells its rows apart.
        columns: What tells its groups of columns apart; None: there is one group.
        scores: The scores that the paper prints in each group, with their headings; those that it
            leaves out for this model and data set, and no arm has, are left out here too.
        extras: Further numbers, shown where an arm has them or the paper prints them.
        methods: The methods whose arms belong here; empty: all.
        is_one_block: Whether only the paper's rows of one model and one data set stand beside ours.
        notes: Lines printed above the table in any case.
    """

    rows: Direction
    columns: Direction | None = None
    scores: Mapping[str, str] = field(default_factory=lambda: SCORES)
    extras: Mapping[str, str] = field(default_factory=dict)
    methods: frozenset[str] = frozenset()
    is_one_block: bool = True
    notes: tuple[str, ...] = ()

    def layout(
        self,
        question: str,
        varying: Sequence[str] = (),
        *,
        has_paper: bool = True,
        numbers: Sequence[str] = (),
    ) -> Layout:
        """The layout that arranges a section this way."""
        return Layout(question, self.arrange, has_paper, tuple(numbers), tuple(varying))

    def arrange(self, section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
        """The paper's rows in its order, also those that we did not run; then our further rows."""
        arms = [arm for arm in section.arms if not self.methods or arm.method in self.methods]
        paper = block(section, paper) if self.is_one_block else tuple(paper)
        cells = _Cells(self, arms, paper)
        known = {name for arm in arms for name in arm.scores} | cells.printed_scores
        all_of_them = {**self.extras, **self.scores}
        scores = {n: all_of_them[n] for n in (*self.scores, *self.extras) if n in known}
        scores = scores or dict(self.scores)  # of arms none of which has ended
        heads, groups, shown = dict[str, str](), dict[str, str](), dict[str, int]()
        declared = digits(scores)
        for column in cells.columns:
            for name, head in scores.items():
                key = f"{name}_{plain(column.label)}" if column.label else name
                heads[key] = f"{column.label} {head}".strip()
                if column.label:
                    groups[key] = column.label
                if name in declared:
                    shown[key] = declared[name]
        elsewhere = len(section.arms) - len(arms)
        others = (f"left out: {elsewhere} arms of methods that are not in this table",)
        return Body(
            labels=(self.rows.head, *(("ours",) if self.rows.ours else ())),
            scores=heads,
            rows=tuple(
                row for position in cells.rows for row in cells.lines(position, list(scores))
            ),
            paper=tuple(paper),
            notes=(*self.notes, *cells.sizes()),
            footer=(*cells.ranks(), *(others if elsewhere else ())),
            digits=shown,
            groups=groups,
        )


class _Cells:
    """The arms and published rows of one section by row and group of columns."""

    def __init__(self, matrix: Matrix, arms: Sequence[Arm], paper: Sequence[PaperRow]) -> None:
        self.matrix, self.has_paper = matrix, bool(paper)
        self.printed_scores = {name for row in paper for name in row.scores}
        self.printed: dict[Cell, PaperRow] = {}
        self.ours: dict[Cell, list[Arm]] = defaultdict(list)
        for row in paper:
            for cell in self._cells(matrix.rows.of_row(row), row):
                self.printed.setdefault(cell, row)
        for arm in arms:
            for cell in self._cells(matrix.rows.of_arm(arm), arm):
                self.ours[cell].append(arm)
        # dict: the paper's order and labels first, then what only we have, in numeric order
        mine = sorted(self.ours, key=lambda cell: (_order(cell[0]), _order(cell[1])))
        rows = dict.fromkeys(row for row, _ in [*self.printed, *mine])
        self.rows = tuple(sorted(rows, key=_order) if matrix.rows.is_sorted else rows)
        columns = dict.fromkeys(column for _, column in [*self.printed, *mine])
        self.columns = tuple(sorted(columns, key=_number_first)) or (_ALL,)

    def lines(self, row: Position, scores: Sequence[str]) -> list[Row]:
        """The printed lines of one row: as many as its fullest cell has arms, at least one."""
        by_column = [self.ours.get((row, column), []) for column in self.columns]
        height = max(1, *map(len, by_column))
        told = [self._told(row, arms) for arms in by_column]
        lines = []
        for index in range(height):
            arms = [found[index] if index < len(found) else None for found in by_column]
            words = [each[index] if index < len(each) else "" for each in told]
            entries = [
                self._entry(arm, self.printed.get((row, column)), name)
                for column, arm in zip(self.columns, arms, strict=True)
                for name in scores
            ]
            lines.append(Row(self._labels(row, arms, words), tuple(entries)))
        return lines

    def ranks(self) -> list[str]:
        """Rank correlation over the rows that both have, for each group of columns."""
        lines = []
        for column in self.columns:
            pairs = [
                (arm, self.printed[cell])
                for cell, arms in self.ours.items()
                for arm in arms
                if cell[1] == column and cell in self.printed
            ]
            if not pairs and self.matrix.columns:
                continue
            found = {name: spearman(score_pairs(pairs, name)) for name in self.matrix.scores}
            where = f", {column.label}" if column.label else ""
            heads = {self.matrix.scores[name]: correlation for name, correlation in found.items()}
            lines.append(f"Spearman over the rows that both have{where}: {correlations(heads)}")
        return lines if self.has_paper else []

    def sizes(self) -> list[str]:
        """How many edits stand behind each group of columns, unless all have the same number."""
        texts: dict[str, str] = {}
        for column in self.columns if self.matrix.columns else ():
            arms = [arm for cell, found in self.ours.items() if cell[1] == column for arm in found]
            if sizes := sorted({_size(arm) for arm in arms}):
                texts[column.label] = " or ".join(sizes)
        is_one = len(texts) > 1 and len(set(texts.values())) == 1
        return [] if is_one else [f"columns {label}: ours {text}" for label, text in texts.items()]

    def _cells(self, rows: Sequence[Position], source: Arm | PaperRow) -> list[Cell]:
        """The cells that an arm or a published row, which has these `rows`, belongs to."""
        columns: Sequence[Position] = (_ALL,)
        if direction := self.matrix.columns:
            if isinstance(source, Arm):
                columns = direction.of_arm(source)
            else:
                columns = direction.of_row(source)
        return [(row, column) for row in rows for column in columns]

    def _entry(self, arm: Arm | None, row: PaperRow | None, name: str) -> Entry:
        if name not in {*self.matrix.scores, *self.printed_scores}:
            return Entry(ours(arm, name))
        paper = theirs(row, name, NOT_IN_PAPER) if self.has_paper else None
        return Entry(ours(arm, name), paper)

    def _told(self, row: Position, arms: Sequence[Arm]) -> tuple[str, ...]:
        """What tells the arms of one cell apart, beside their labels."""
        ours = self.matrix.rows.ours
        return apart(arms, [row.label if ours is None else ours(arm) for arm in arms])

    def _labels(
        self, row: Position, arms: Sequence[Arm | None], words: Sequence[str]
    ) -> tuple[str, ...]:
        """The labels of a line: of its first arm, with what tells its arms from other lines'."""
        said = {c.label: each for c, each in zip(self.columns, words, strict=True) if each}
        is_one = len(set(said.values())) == 1
        parts = said.values() if is_one else (f"{head}: {each}" for head, each in said.items())
        told = "; ".join(dict.fromkeys(parts))
        if self.matrix.rows.ours is None:
            return (with_words(row.label, told),)
        first = next((arm for arm in arms if arm), None)
        return row.label, with_words(self.matrix.rows.ours(first), told) if first else NOT_RUN


def block(section: Section, paper: Sequence[PaperRow]) -> tuple[PaperRow, ...]:
    """The rows of our data set and model, or else of the first data set and of LLaMA2-7B."""
    if not paper:
        return ()
    names = dict.fromkeys(row.dataset for row in paper)
    own = section.context["dataset"]
    same = {name for name in names if same_name(own, name)}
    # Plain and serial editing of one data set bear two names; both belong to one block.
    first = next(iter(names))
    chosen = same or {name for name in names if _stem(name) == _stem(first)}
    rows = [row for row in paper if row.dataset in chosen]
    models = list(dict.fromkeys(row.model for row in rows))
    backbone = section.context["backbone"]
    wanted = (backbone, _STAND_INS.get(backbone, _MODEL), _MODEL, models[0])
    model = next(m for name in wanted for m in models if same_name(name, m))
    return tuple(row for row in rows if row.model == model)


def only(matrix: Matrix, *methods: str) -> Matrix:
    """The same table with the arms of these methods alone."""
    return replace(matrix, methods=frozenset(methods))


def _stem(dataset: str) -> str:
    return plain(dataset).removeprefix("slke")


def _size(arm: Arm) -> str:
    counts = {name: arm.protocol.get(name) for name in _SIZES}
    return _SIZE_WORDS[str(arm.protocol["kind"])].format(**counts)


def _order(position: Position) -> tuple[str, float]:
    """Sort key: by words, then by the number in them; numbers without words come first."""
    parts = position.key if isinstance(position.key, tuple) else (position.key,)
    numbers = [float(part) for part in parts if isinstance(part, int | float)]
    words = " ".join(part for part in parts if isinstance(part, str))
    return words, numbers[0] if numbers else 0.0


def _number_first(position: Position) -> tuple[bool, float]:
    """Sort key: numbers in ascending order, then other groups of columns in the order they have."""
    is_number = isinstance(position.key, int | float)
    return not is_number, _order(position)[1] if is_number else 0.0
