"""MEMoE v2 Figure 1: edits by frequency, in mixed batches and in batches of one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.aggregate import Arm, Section
from analysis.layouts.directions import Direction, Position, by_method, by_variant
from analysis.layouts.labels import named
from analysis.layouts.layout import Body, Layout
from analysis.layouts.matrix import Matrix
from analysis.published.paper_numbers import PaperRow
from analysis.subsets import by_frequency, subsets

NUM_BUCKETS = 6
BUCKETS = "buckets"  # the arm whose edits are scored by frequency
_METHODS = by_method()
_VARIANTS = by_variant("Edits")


def _row(arm: Arm) -> Sequence[Position]:
    """Buckets first, in their order, then the classes."""
    (position,) = _VARIANTS.of_arm(arm)
    return (
        replace(
            position, key=(f"0{position.key}" if "bucket" in position.label else f"1{position.key}")
        ),
    )


_MATRIX = Matrix(
    Direction("Edits", _row, lambda _: ()),
    Direction("", _METHODS.of_arm, lambda _: ()),
    notes=(
        "bucket 1 to 6: edits of mixed batches by falling frequency; head, tail: batches of the "
        "most and the least frequent 30% alone; mixed: of all",
        "frequency: how often the backbone read the fact; the paper ranks by GECE",
        "paper (no numbers): Rel. and Gen. fall and Loc. rises from frequent to rare; one class "
        "alone is easier than a mix",
    ),
)


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per bucket and per class, a group of columns per method."""
    arms: list[Arm] = []
    lost: list[str] = []
    for arm in named(section.arms):
        if arm.swept.get("arm") != BUCKETS:
            arms.append(arm)
            continue
        found = subsets(arm, section.measure, by_frequency(NUM_BUCKETS), "bucket")
        arms += found or [arm]
        lost += [] if found else [f"{arm.name}: no per-record results with frequencies"]
    body = _MATRIX.arrange(replace(section, arms=tuple(arms)), (), is_filtered)
    return replace(body, footer=(*body.footer, *lost))


LAYOUT = Layout(
    question="MEMoE v2 Figure 1: edits by frequency, mixed and apart",
    arrange=arrange,
    has_paper=False,
    varying=("num_batches",),
)
