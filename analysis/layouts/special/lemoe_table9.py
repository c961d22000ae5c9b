"""LEMoE Table 9: LoRA experts in one batch of 30 edits, by layer, experts, top-k and rank.

The paper (section C.4) prints only rows with reliability >= .1, generality >= .1, locality >= .5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from analysis.aggregate import Arm, Section
from analysis.layouts.grid import by_point, grid_rows, printed_pairs
from analysis.layouts.layout import SCORES, Body, Layout, correlations, score_pairs
from analysis.published.compare import Point, agreement, passes_filter, published_points, spearman
from analysis.published.paper_numbers import PaperRow

AXES = {
    "method.edit_layer": "layer",
    "method.num_experts": "num_experts",
    "method.top_k": "top_k",
    "method.lora_rank": "lora_rank",
}
LABELS = ("Layer", "Expert Number", "Topk", "LoRA Rank", "ours at")

# Section C.4 states top-k 1, 10, 20; the table has 1, 5, 10. A cell of either was "published".
_LAYERS = frozenset(range(0, 32, 2))
_EXPERTS = frozenset({1, 10, 20})
_TOP_K = frozenset({1, 5, 10, 20})
_RANKS = frozenset(2**power for power in range(1, 12))


def is_published(point: Point) -> bool:
    """Whether the paper says, or shows, that it ran this cell."""
    layer, num_experts, top_k, lora_rank = point
    return (
        layer in _LAYERS
        and num_experts in _EXPERTS
        and top_k in _TOP_K
        and top_k <= num_experts
        and lora_rank in _RANKS
    )


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """Rows by layer, experts, top-k and rank; agreement with the paper below.

    With `is_filtered` only our rows that pass the published filter stay, those without a mean too.
    """
    printed = by_point(paper, tuple(AXES.values()))
    shown, dropped = section, 0
    if is_filtered:
        kept = tuple(arm for arm in section.arms if passes_filter(arm) is not False)
        shown, dropped = replace(section, arms=kept), len(section.arms) - len(kept)
    footer = [*_rank_lines(section, printed), *_filter_lines(section, printed)]
    if is_filtered:
        footer.append(f"filter=published: {dropped} of {len(section.arms)} arms are not shown")
    return Body(
        labels=LABELS,
        scores=SCORES,
        rows=grid_rows(shown, tuple(AXES), printed, is_published),
        paper=tuple(paper),
        footer=tuple(footer),
    )


def _rank_lines(section: Section, printed: Mapping[Point, PaperRow]) -> list[str]:
    pairs = printed_pairs(section, tuple(AXES), printed)
    num_arms = len({id(arm) for arm, _ in pairs if arm.scores})
    found = {name: spearman(score_pairs(pairs, name)) for name in SCORES}
    line = f"Spearman over the cells that the paper prints: {correlations(found)}"
    return [f"{line}; {num_arms} arms of ours stand for them"]


def _filter_lines(section: Section, printed: Iterable[Point]) -> list[str]:
    printed = set(printed)
    judged = [
        (point, arm)
        for arm in section.arms
        for point in published_points(arm, tuple(AXES))
        if is_published(point) and passes_filter(arm) is not None
    ]
    counted = _surely_run(judged, printed)
    num_points = len({point for point, _ in counted})
    has_several = num_points < len(counted)
    of = f" ({num_points} different ones, several arms stand for one)" if has_several else ""
    found = agreement(counted, printed)
    rate = "undefined" if found.rate is None else f"{found.rate:.2f}"
    lines = [
        f"published filter (Rel. >= 0.1, Gen. >= 0.1, Loc. >= 0.5) over {found.num_cells} "
        f"published cells{of}: passed by ours and printed {found.both}, passed by ours only "
        f"{found.ours_only}, printed only {found.paper_only}, neither {found.neither}; "
        f"agreement {rate}"
    ]
    if len(judged) > len(counted):
        lines.append(
            f"left out of that count: {len(judged) - len(counted)} cells with a top-k, or a rank "
            "for that number of experts, of which the paper prints no row at all: filtered or "
            "never run cannot be told"
        )
    return lines


def _surely_run(
    cells: Sequence[tuple[Point, Arm]], printed: Iterable[Point]
) -> list[tuple[Point, Arm]]:
    top_ks = {point[2] for point in printed}
    pairs = {(point[1], point[3]) for point in printed}
    return [
        (point, arm) for point, arm in cells if point[2] in top_ks and (point[1], point[3]) in pairs
    ]


LAYOUT = Layout(
    question="LEMoE Table 9: LoRA experts, by layer, number of experts, top-k and rank",
    arrange=arrange,
    has_filter=True,
)
