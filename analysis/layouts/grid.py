"""Layouts of tables whose rows are the points of a grid of swept keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from analysis.aggregate import Arm, Section
from analysis.layouts.labels import distinct, named
from analysis.layouts.layout import (
    NOT_IN_PAPER,
    NOT_PRINTED,
    SCORES,
    Body,
    Layout,
    correlations,
    entries,
    score_pairs,
)
from analysis.published.compare import Point, ours_at, published_points, spearman
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Row

_HEADS = {"layer": "Layer", "num_experts": "Experts", "top_k": "Top-k", "lora_rank": "Rank"}
NO_POINT = "-"  # label of a row that is no point of the published grid
# Headings of label columns that hold the numbers of a grid, LEMoE Table 9's among them.
GRID_HEADS = frozenset({*_HEADS.values(), "Expert Number", "Topk", "LoRA Rank"})


def grid_layout(question: str, axes: Mapping[str, str]) -> Layout:
    """A layout with a row per point of a grid that the paper prints whole.

    Args:
        question: What the table tells.
        axes: Swept key -> column of the published numbers, in the order of the label columns.
    """

    def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
        printed = by_point(paper, tuple(axes.values()))
        pairs = printed_pairs(section, tuple(axes), printed)
        found = {name: spearman(score_pairs(pairs, name)) for name in SCORES}
        heads = tuple(_HEADS[column] for column in axes.values())
        return Body(
            labels=(*heads, "ours at"),
            scores=SCORES,
            rows=grid_rows(section, tuple(axes), printed, printed.__contains__),
            paper=tuple(paper),
            footer=(f"Spearman over the rows that both have: {correlations(found)}",),
        )

    return Layout(question, arrange)


def by_point(paper: Sequence[PaperRow], columns: Sequence[str]) -> dict[Point, PaperRow]:
    """The published rows by their values in `columns`."""
    return {tuple(getattr(row, column) for column in columns): row for row in paper}


def grid_rows(
    section: Section,
    axes: Sequence[str],
    printed: Mapping[Point, PaperRow],
    is_published: Callable[[Point], bool],
) -> tuple[Row, ...]:
    """One row per published cell that an arm stands for, in the paper's order.

    Cells that the paper does not print, and that differ on the last axis alone, share one row.
    Arms that stand for no published cell come last, under their own name.

    Args:
        section: The arms; `compare.published_points` says which cells each stands for.
        axes: Swept keys, in the order of the columns.
        printed: The published rows by point.
        is_published: Whether a point belongs to the grid that the paper says it ran.
    """
    lines: list[tuple[tuple[float, ...], Row]] = []
    strangers: list[Row] = []
    placed = [published_points(arm, axes) for arm in section.arms]
    ours = [ours_at(arm, axes) for arm in section.arms]
    labelled = distinct(section.arms, ours, list(map(str, placed)))
    names = [arm.name for arm in named(section.arms)]
    for arm, points, at, name in zip(section.arms, placed, labelled, names, strict=True):
        for point in points:
            if point in printed:
                labels = (*map(str, point), at)
                row = Row(labels, entries(arm, printed[point], NOT_PRINTED))
                lines.append((_order(point), row))
        for group in _merged(point for point in points if point not in printed):
            absent = NOT_PRINTED if any(map(is_published, group)) else NOT_IN_PAPER
            last = ", ".join(str(point[-1]) for point in group)
            labels = (*map(str, group[0][:-1]), last, at)
            lines.append((_order(group[0]), Row(labels, entries(arm, None, absent))))
        if not points:
            labels = (*(NO_POINT for _ in axes), name)
            strangers.append(Row(labels, entries(arm, None, NOT_IN_PAPER)))
    lines.sort(key=lambda line: line[0])
    return (*(row for _, row in lines), *strangers)


def printed_pairs(
    section: Section, axes: Sequence[str], printed: Mapping[Point, PaperRow]
) -> list[tuple[Arm, PaperRow]]:
    """Every arm with every printed row that it stands for."""
    placed = ((arm, point) for arm in section.arms for point in published_points(arm, axes))
    return [(arm, printed[point]) for arm, point in placed if point in printed]


def _merged(points: Iterable[Point]) -> list[list[Point]]:
    groups: dict[Point, list[Point]] = defaultdict(list)
    for point in points:
        groups[point[:-1]].append(point)
    return list(groups.values())


def _order(point: Point) -> tuple[float, ...]:
    return tuple(float(value) for value in point)
