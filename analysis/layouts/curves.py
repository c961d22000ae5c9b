"""Layouts of LEMoE Figures 2 and 5: what a conventional MoE adapter forgets over a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.aggregate import Section
from analysis.layouts.directions import Direction, Position
from analysis.layouts.layout import Body, Layout
from analysis.layouts.matrix import Matrix
from analysis.published.paper_numbers import PaperRow
from analysis.subsets import by_batch, subsets

_VARYING = ("kind", "order", "num_edits", "edit_batch_size", "num_batches")


def _number(name: str) -> int:
    return int(name.rpartition(" ")[2])


_BY_SUBSET = Direction(
    "Part of the stream", lambda arm: (Position(_number(arm.name), arm.name),), lambda _: ()
)


def forgetting(
    question: str, scores: Mapping[str, str], batches_per_point: int, published: str
) -> Layout:
    """A layout with one row per point of the curve.

    Args:
        question: What the figure tells.
        scores: Final scores and, as `<score>.immediate`, those right after each batch.
        batches_per_point: Batches that the figure averages in a point.
        published: The paper's words about its own curve, which has no numbers.
    """
    matrix = Matrix(_BY_SUBSET, scores=scores, notes=(f"paper (no numbers): {published}",))

    def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
        streams = [arm for arm in section.arms if arm.protocol.get("kind") == "lifelong"]
        name = "batch" if batches_per_point == 1 else f"{batches_per_point} batches, no."
        points = tuple(
            point
            for arm in streams
            for point in subsets(arm, section.measure, by_batch(batches_per_point), name)
        )
        body = matrix.arrange(replace(section, arms=points), (), is_filtered)
        lost = [arm.name for arm in streams if not any(p.protocol == arm.protocol for p in points)]
        footer = [f"{name}: no per-record results to draw a curve from" for name in lost]
        return replace(body, footer=(*body.footer, *footer))

    return Layout(question, arrange, has_paper=False, varying=_VARYING)
