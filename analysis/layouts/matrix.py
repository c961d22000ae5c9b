"""The layout that most published tables share: rows, groups of columns, scores in each group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from analysis.aggregate import Arm, Section
from analysis.layouts.directions import Place, Spot
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
from analysis.render import Entry, Row

# The model that most published tables are about; the one to stand beside a backbone of our own.
_MODEL = "LLaMA2-7B"
_STAND_INS = {"facts_gpt2": "GPT2-XL"}
_ALL = Spot("", "")  # the only group of columns of a table without groups
_SIZES = ("num_edits", "edit_batch_size", "num_questions", "answers_per_question", "num_batches")
_SIZE_WORDS = {
    "serial": "{num_questions} questions x {answers_per_question} answers",
    "batch": "{num_batches} batch(es) of {num_edits}",
    "single": "{num_edits} single edits",
    "lifelong": "{num_edits} edits in batches of {edit_batch_size}",
}


@dataclass(frozen=True)
class Matrix:
    """What stands where in one published table.

    Attributes:
        rows: What tells its rows apart; `columns`: its groups of columns, None for one group.
        scores: The scores of a group that the paper prints, with their heads.
        extras: Further numbers of ours, shown where an arm has them.
        methods: The methods whose arms belong here; empty: all.
        is_one_block: Whether only the paper's rows of one model and one data set stand beside ours.
        notes: Lines that always stand above the table.
    """

    rows: Place
    columns: Place | None = None
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
        numbers: str | None = None,
    ) -> Layout:
        """The layout that arranges a section this way."""
        return Layout(question, self.arrange, has_paper, numbers, tuple(varying))

    def arrange(self, section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
        """The paper's rows in their order, those that we did not run included; ours below."""
        arms = [arm for arm in section.arms if not self.methods or arm.method in self.methods]
        paper = block(section, paper) if self.is_one_block else tuple(paper)
        cells = _Cells(self, arms, paper)
        measured = {name for arm in arms for name in arm.scores}
        scores = {n: head for n, head in self.extras.items() if n in measured}
        scores = {**self.scores, **{n: h for n, h in scores.items() if n not in self.scores}}
        heads, shown = dict[str, str](), dict[str, int]()
        declared = digits(scores)
        for column in cells.columns:
            for name, head in scores.items():
                key = f"{name}_{plain(column.label)}" if column.label else name
                heads[key] = f"{column.label} {head}".strip()
                shown[key] = declared[name]
        elsewhere = len(section.arms) - len(arms)
        others = (f"left out: {elsewhere} arms of methods that are not in this table",)
        return Body(
            labels=(self.rows.head, *(("ours",) if self.rows.ours else ())),
            scores=heads,
            rows=tuple(row for spot in cells.rows for row in cells.lines(spot, list(scores))),
            paper=tuple(paper),
            notes=(*self.notes, *cells.sizes()),
            footer=(*cells.ranks(), *(others if elsewhere else ())),
            digits=shown,
        )


class _Cells:
    """The arms and published rows of one section by row and group of columns."""

    def __init__(self, matrix: Matrix, arms: Sequence[Arm], paper: Sequence[PaperRow]) -> None:
        self.matrix, self.has_paper = matrix, bool(paper)
        self.printed: dict[tuple[Spot, Spot], PaperRow] = {}
        self.ours: dict[tuple[Spot, Spot], list[Arm]] = defaultdict(list)
        for row in paper:
            for spots in self._crossed(matrix.rows.of_row(row), row):
                self.printed.setdefault(spots, row)
        for arm in arms:
            for spots in self._crossed(matrix.rows.of_arm(arm), arm):
                self.ours[spots].append(arm)
        # dict: the paper's order and labels first, then what only we have, in numeric order
        mine = sorted(self.ours, key=lambda spots: (_order(spots[0]), _order(spots[1])))
        rows = dict.fromkeys(spots[0] for spots in [*self.printed, *mine])
        self.rows = tuple(sorted(rows, key=_order) if matrix.rows.is_sorted else rows)
        columns = dict.fromkeys(spots[1] for spots in [*self.printed, *mine])
        self.columns = tuple(sorted(columns, key=_number_first)) or (_ALL,)

    def lines(self, row: Spot, scores: Sequence[str]) -> list[Row]:
        """One line per arm that shares the fullest cell of a row; one in any case."""
        cells = [self.ours.get((row, column), []) for column in self.columns]
        height = max(1, *map(len, cells))
        lines = []
        for index in range(height):
            arms = [cell[index] if index < len(cell) else None for cell in cells]
            first = next((arm for arm in arms if arm), None)
            entries = [
                self._entry(arm, self.printed.get((row, column)), name)
                for column, arm in zip(self.columns, arms, strict=True)
                for name in scores
            ]
            lines.append(Row(self._labels(row, first, height), tuple(entries)))
        return lines

    def ranks(self) -> list[str]:
        """Rank correlation over the rows that both have, for each group of columns."""
        lines = []
        for column in self.columns:
            pairs = [
                (arm, self.printed[spots])
                for spots, arms in self.ours.items()
                for arm in arms
                if spots[1] == column and spots in self.printed
            ]
            if not pairs and self.matrix.columns:
                continue
            found = {name: spearman(score_pairs(pairs, name)) for name in self.matrix.scores}
            where = f", {column.label}" if column.label else ""
            heads = {self.matrix.scores[name]: correlation for name, correlation in found.items()}
            lines.append(f"Spearman over the rows that both have{where}: {correlations(heads)}")
        return lines if self.has_paper else []

    def sizes(self) -> list[str]:
        """How many edits stand behind each group of columns, where that is not all one."""
        texts: dict[str, str] = {}
        for column in self.columns if self.matrix.columns else ():
            cells = [found for spots, found in self.ours.items() if spots[1] == column]
            if sizes := sorted({_size(arm) for found in cells for arm in found}):
                texts[column.label] = " or ".join(sizes)
        is_one = len(texts) > 1 and len(set(texts.values())) == 1
        return [] if is_one else [f"columns {label}: ours {text}" for label, text in texts.items()]

    def _crossed(self, rows: Sequence[Spot], of: Arm | PaperRow) -> list[tuple[Spot, Spot]]:
        columns: Sequence[Spot] = (_ALL,)
        if self.matrix.columns:
            place = self.matrix.columns
            columns = place.of_arm(of) if isinstance(of, Arm) else place.of_row(of)
        return [(row, column) for row in rows for column in columns]

    def _entry(self, arm: Arm | None, row: PaperRow | None, name: str) -> Entry:
        if name not in self.matrix.scores:
            return Entry(ours(arm, name))
        paper = theirs(row, name, NOT_IN_PAPER) if self.has_paper else None
        return Entry(ours(arm, name), paper)

    def _labels(self, row: Spot, arm: Arm | None, height: int) -> tuple[str, ...]:
        if self.matrix.rows.ours is not None:
            return row.label, self.matrix.rows.ours(arm) if arm else NOT_RUN
        return (f"{row.label} ({arm.name})" if height > 1 and arm else row.label,)


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


def _order(spot: Spot) -> tuple[str, float]:
    """Words first, then the number in them; numbers alone stand first."""
    parts = spot.key if isinstance(spot.key, tuple) else (spot.key,)
    numbers = [float(part) for part in parts if isinstance(part, int | float)]
    words = " ".join(part for part in parts if isinstance(part, str))
    return words, numbers[0] if numbers else 0.0


def _number_first(spot: Spot) -> tuple[bool, float]:
    """Sizes in their order; other groups of columns as they come."""
    is_number = isinstance(spot.key, int | float)
    return not is_number, _order(spot)[1] if is_number else 0.0
