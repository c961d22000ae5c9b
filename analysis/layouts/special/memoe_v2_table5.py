"""MEMoE v2 Table 5: what an edit and an answer cost, by method.

The paper prints the time to train 30 edits, or none where a method has no phase of its own for it,
and an inference time "per edit" that it does not explain. Ours are seconds an edit: of editing, and
of answering all prompts that an edit is scored by, teacher forced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from analysis.aggregate import Arm, Section
from analysis.layouts.costs import COSTS, EXPLAINED, per_edit
from analysis.layouts.labels import apart, with_words
from analysis.layouts.layout import NOT_IN_PAPER, NOT_PRINTED, NOT_RUN, Body, Layout
from analysis.published.compare import plain
from analysis.published.paper_numbers import PaperRow, read
from analysis.render.table import Entry, Row

NUMBERS = "memoe_v2_table5"
_OURS = {"memoe_v2": "MEMoE"}  # the paper's own method; others differ by spelling alone


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """The paper's rows in its order, a line for each of our arms; then our further methods."""
    ours: dict[str, list[tuple[Arm, str]]] = defaultdict(list)
    told = apart(section.arms, [arm.method for arm in section.arms])
    for arm, words in zip(section.arms, told, strict=True):
        ours[plain(_OURS.get(arm.method, arm.method))].append((arm, words))
    rows = list[Row]()
    for cells in read(NUMBERS, ("method", "num_edits", "vram_gb", "training_minutes")):
        method, printed = cells["method"], _printed(cells)
        for own, words in ours.pop(plain(method), [(None, "")]):
            rows.append(Row((with_words(method, words),), _entries(own, printed)))
    for further in ours.values():
        for arm, words in further:
            rows.append(Row((with_words(arm.method, words),), _entries(arm, None)))
    return Body(
        labels=("Method",),
        scores=COSTS,
        rows=tuple(rows),
        notes=(
            EXPLAINED,
            "paper: 30 edits on LLaMA2-7B and a V100 of 32 GB, which four of its rows exceed; its "
            "training time is divided by 30",
        ),
    )


def _printed(cells: Mapping[str, str]) -> dict[str, float]:
    """The paper's numbers under our names, times in seconds an edit."""
    found = {
        "peak_gpu_gib": (cells["vram_gb"], 1.0),
        "edit_seconds": (cells["training_minutes"], 60.0 / float(cells["num_edits"])),
        "evaluation_seconds": (cells["inference_seconds_per_edit"], 1.0),
    }
    return {name: float(text) * factor for name, (text, factor) in found.items() if text}


def _entries(arm: Arm | None, printed: Mapping[str, float] | None) -> tuple[Entry, ...]:
    return tuple(
        Entry(
            NOT_RUN if arm is None else per_edit(arm, name),
            NOT_IN_PAPER if printed is None else printed.get(name, NOT_PRINTED),
        )
        for name in COSTS
    )


LAYOUT = Layout(
    question="MEMoE v2 Table 5: seconds and memory of an edit, by method",
    arrange=arrange,
    has_paper=False,  # the file has no scores
    varying=("order", "edit_batch_size", "num_batches"),
)
