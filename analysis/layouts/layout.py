"""The types that every layout uses, and how single cells are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from analysis.aggregate import Arm, Estimate, Section
from analysis.metrics import MAIN, headings, metric
from analysis.published.compare import Correlation
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row

SCORES = headings(MAIN)
NOT_PRINTED, NOT_IN_PAPER, NOT_RUN = "not printed", "not in the paper", "not run"
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Body:
    """The arranged rows of one section.

    Attributes:
        paper: The published rows that the section is compared with.
        notes: Lines above the table.
        footer: Lines below the table.
        digits: Decimals by key of `scores`, for columns with other than two.
        groups: Label of the group of columns by key of `scores`; headings begin with it.
        context: Lines above the table that say otherwise than the section does, by their name.
        has_own_intervals: Whether the notes say themselves what the intervals are.
    """

    labels: tuple[str, ...]
    scores: Mapping[str, str]
    rows: tuple[Row, ...]
    paper: tuple[PaperRow, ...] = ()
    notes: tuple[str, ...] = ()
    footer: tuple[str, ...] = ()
    digits: Mapping[str, int] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    has_own_intervals: bool = False


Arrange: TypeAlias = Callable[[Section, Sequence[PaperRow], bool], Body]


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes:
        question: What the table tells, for `--list`.
        has_paper: Whether published numbers stand beside ours.
        numbers: Names of their files in `paper_tables/`, if it is not the layout's own name.
        varying: Protocol keys that may differ between rows or columns of one table, `backbone` and
            `dataset` among them.
        has_filter: Whether the paper prints only rows that pass a filter.
        arrange: Function of a section, its published rows, and whether to filter our rows, too.
    """

    question: str
    arrange: Arrange
    has_paper: bool = True
    numbers: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()
    has_filter: bool = False

    def numbers_of(self, name: str) -> tuple[str, ...]:
        """The files with the published numbers of this layout, whose own name is `name`."""
        return (self.numbers or (name,)) if self.has_paper else ()


def entries(arm: Arm | None, row: PaperRow | None, absent: str) -> tuple[Entry, ...]:
    """The four cells of one line; `absent` is the paper's text if it has no such row."""
    return tuple(Entry(ours(arm, name), theirs(row, name, absent)) for name in SCORES)


def ours(arm: Arm | None, name: str) -> Estimate | str:
    """Our value of one score, or why there is none; sizes are in megabytes."""
    if arm is None:
        return NOT_RUN
    found = arm.state or arm.scores.get(name, "not measured")
    declared = metric(name)
    if declared is not None and declared.kind == "bytes" and isinstance(found, Estimate):
        return divided(found, _MEGABYTE)
    return found


def theirs(row: PaperRow | None, name: str, absent: str) -> float | str:
    """The paper's value of one score, or why there is none."""
    value = None if row is None else row.score(name)
    return absent if row is None else NOT_PRINTED if value is None else value


def correlations(found: Mapping[str, Correlation]) -> str:
    """One line with Spearman's correlation for each column, and its number of pairs."""
    parts = []
    for name, correlation in found.items():
        value = correlation.value
        text = "undefined" if value is None else f"{value:z.2f}"
        parts.append(f"{SCORES.get(name, name)} {text} (n = {correlation.num_pairs})")
    return ", ".join(parts)


def score_pairs(pairs: Sequence[tuple[Arm, PaperRow]], name: str) -> list[tuple[float, float]]:
    """Our value and the paper's of one score, for each pair that has both."""
    both = ((arm.scores.get(name), row.score(name)) for arm, row in pairs)
    return [(mine.mean, printed) for mine, printed in both if mine and printed is not None]


def divided(estimate: Estimate, by: float) -> Estimate:
    """`estimate` in a unit that is `by` times as large."""
    low, high = (None if value is None else value / by for value in (estimate.low, estimate.high))
    return replace(estimate, mean=estimate.mean / by, low=low, high=high)
