"""Layouts of LEMoE Figures 2 and 5: what a conventional MoE adapter forgets over a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.aggregate import Arm, Section
from analysis.layouts.directions import Direction, Position
from analysis.layouts.labels import named
from analysis.layouts.layout import Body, Layout
from analysis.layouts.matrix import Matrix
from analysis.published.paper_numbers import PaperRow
from analysis.subsets import by_batch, subsets

_VARYING = ("kind", "order", "num_edits", "edit_batch_size", "num_batches")


def _part(arm: Arm) -> Sequence[Position]:
    """The number of a part, which ends its name."""
    name = str(arm.swept["arm"])
    return (Position(int(name.rpartition(" ")[2]), name),)


_BY_SUBSET = Direction("Part of the stream", _part, lambda _: ())


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
        streams = [arm for arm in named(section.arms) if arm.protocol.get("kind") == "lifelong"]
        name = "batch" if batches_per_point == 1 else f"{batches_per_point} batches, no."
        divide = by_batch(batches_per_point)
        curves = {arm.name: subsets(arm, section.measure, divide, name) for arm in streams}
        points = tuple(point for curve in curves.values() for point in curve)
        body = matrix.arrange(replace(section, arms=points), (), is_filtered)
        lost = [name for name, curve in curves.items() if not curve]
        footer = [f"{name}: no per-record results to draw a curve from" for name in lost]
        return replace(body, footer=(*body.footer, *footer))

    return Layout(question, arrange, has_paper=False, varying=_VARYING)
