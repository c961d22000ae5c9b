"""MEMoE v1 Figure 1: accuracy against balance, and the overall score, by method.

The paper names "accuracy" and "balance" in the caption and defines neither. Section 3 says that
the method "achieves a balance between generality and locality"; the abstract has "balance between
generalization and locality", Section 1, of the figure, "between locality and generality". So that
is what is measured here, of the rows of its Table 1 as of ours: 1 - |generality - locality|;
accuracy is reliability. The right panel, "overall performance", is the average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.aggregate import Arm, Section, estimate
from analysis.layouts.directions import by_method
from analysis.layouts.layout import SCORES, Body, Layout
from analysis.layouts.matrix import Matrix
from analysis.published.paper_numbers import PaperRow

_BALANCE = "balance"
_MATRIX = Matrix(
    by_method({"memoe_v1": "MEMoE", "comeba_hk": "COMEBA"}),
    scores={
        "reliability": "Accuracy (Rel.)",
        _BALANCE: "Balance",
        **{name: SCORES[name] for name in ("generality", "locality", "average")},
    },
    notes=(
        "balance: 1 - |Gen. - Loc.|, 1 where an edit reaches its rephrases as well as it spares "
        "the rest; the paper does not define it",
        "paper: the figure has no numbers; beside ours stand those of its Table 1",
    ),
)


def balance(generality: float, locality: float) -> float:
    """1 - |generality - locality| of two shares, in [0, 1]."""
    return 1 - abs(generality - locality)


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per method, the paper's first."""
    balanced = replace(section, arms=tuple(map(_arm, section.arms)))
    return _MATRIX.arrange(balanced, tuple(map(_row, paper)), is_filtered)


def _arm(arm: Arm) -> Arm:
    pair = [arm.scores.get(name) for name in ("generality", "locality")]
    generality, locality = pair
    if generality is None or locality is None:
        return arm
    each = list(map(balance, generality.by_seed, locality.by_seed))
    return replace(arm, scores={**arm.scores, _BALANCE: estimate(each)})


def _row(row: PaperRow) -> PaperRow:
    generality, locality = row.score("generality"), row.score("locality")
    if generality is None or locality is None:
        return row
    return replace(row, scores={**row.scores, _BALANCE: balance(generality, locality)})


LAYOUT = Layout(
    question="MEMoE v1 Figure 1: accuracy against balance, and the overall score, by method",
    arrange=arrange,
    numbers=("memoe_v1_table1",),
    varying=("order", "edit_batch_size", "num_batches"),
)
