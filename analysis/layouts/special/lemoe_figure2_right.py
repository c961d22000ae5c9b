"""LEMoE Figure 2, right: the expert that learned an input against the one that it goes to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from analysis.aggregate import Arm, Estimate, Section, estimate
from analysis.layouts.labels import named
from analysis.layouts.layout import NOT_RUN, Body, Layout
from analysis.published.paper_numbers import PaperRow, read
from analysis.reading.routes import majority_expert
from analysis.reading.runs import read_records
from analysis.render.table import Entry, Row

Shares: TypeAlias = Mapping[tuple[int, int], float]  # (expert in training, in testing), from 1

_KINDS = {"lifelong": "stream", "batch": "one batch"}
_COLUMNS = ("setting", "expert_training", "expert_testing", "proportion")


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per expert in training, a column per expert in testing, for the stream and the batch.

    An expert that learned nothing in a trial has no row of shares there.
    """
    printed = {
        (row["setting"], int(row["expert_training"]), int(row["expert_testing"])): float(
            row["proportion"]
        )
        for row in read("lemoe_figure2", _COLUMNS)
    }
    by_kind = {
        kind: [arm for arm in named(section.arms) if arm.protocol.get("kind") == kind]
        for kind in _KINDS
    }
    ours = {kind: _ours(arms) for kind, arms in by_kind.items()}
    experts = sorted({i for _, i, _ in printed} | {i for cells in ours.values() for i, _ in cells})
    heads = {
        f"{kind}_{j}": f"{label}: to expert {j}" for kind, label in _KINDS.items() for j in experts
    }
    rows = [
        Row(
            (f"learned by expert {i}",),
            tuple(
                Entry(ours[kind].get((i, j), NOT_RUN), printed.get((kind, i, j), "not printed"))
                for kind in _KINDS
                for j in experts
            ),
        )
        for i in experts
    ]
    diagonals = []
    for kind, label in _KINDS.items():
        own = [cell.mean for (i, j), cell in ours[kind].items() if i == j]
        theirs = [share for (setting, i, j), share in printed.items() if setting == kind and i == j]
        mine = f"{sum(own) / len(own):.2f}" if own else NOT_RUN
        diagonals.append(f"{label} {mine} / {sum(theirs) / len(theirs):.2f}")
    return Body(
        labels=("Inputs",),
        scores=heads,
        rows=tuple(rows),
        groups={f"{kind}_{j}": f"{label}:" for kind, label in _KINDS.items() for j in experts},
        notes=("experts bear numbers without meaning: compare the diagonals, not single rows",),
        footer=(
            f"mean of the diagonal, ours / paper: {', '.join(diagonals)}",
            *(
                f"{_KINDS[kind]}: means over all trials of {len(arms)} arms, "
                f"{'; '.join(arm.name for arm in arms)}"
                for kind, arms in by_kind.items()
                if len(arms) > 1
            ),
        ),
    )


def _ours(arms: Sequence[Arm]) -> dict[tuple[int, int], Estimate]:
    """Each share over all trials; 0 if an expert learned inputs, none of which went there."""
    values: dict[tuple[int, int], list[float]] = defaultdict(list)
    for arm in arms:
        for address in () if arm.state else arm.records:
            for cell, share in _shares(address, arm.context["dataset"]).items():
                values[cell].append(share)
    return {cell: estimate(found) for cell, found in values.items()}


def _shares(address: str, dataset: str) -> Shares:
    records = read_records(address, dataset)
    if records is None or not {"experts", "trained_experts"} <= set(records.columns):
        return {}
    edits = records[(records["score"] == "reliability") & records["trained_experts"].notna()]
    pairs = Counter(
        (majority_expert(learned) + 1, majority_expert(tested) + 1)
        for learned, tested in zip(edits["trained_experts"], edits["experts"], strict=True)
    )
    totals: Counter[int] = Counter()
    for (learned, _), count in pairs.items():
        totals[learned] += count
    experts = sorted({expert for pair in pairs for expert in pair})
    return {(i, j): pairs[i, j] / totals[i] for i in totals for j in experts}


LAYOUT = Layout(
    question="LEMoE Figure 2, right: which expert learned an input, and where it goes at the end",
    arrange=arrange,
    has_paper=False,
    varying=("kind", "order", "num_edits", "edit_batch_size", "num_batches", "curve"),
)
