"""ARM Table 6: what training and inference hold beside the model, and what that costs.

The paper prints layers and experts, and says of time (Section 4.4): "less than a 10% increase in
computation time relative to baseline methods", fine-tuning and WISE. Ours beside it: the experts
that hold the edits at the end, their bytes, and seconds of each edit and of its answers. The ratio
to the baselines is of the edits alone: the seconds of answers hold every pass of an evaluation, of
which some, such as where inputs are sent, are made for methods that route and for no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.aggregate import Arm, Estimate, Section
from analysis.counts import num_edits
from analysis.layouts.costs import COSTS, EXPLAINED, OF_STREAMS, per_edit
from analysis.layouts.directions import name_shown
from analysis.layouts.labels import distinct
from analysis.layouts.layout import NOT_IN_PAPER, NOT_RUN, Body, Layout, ours
from analysis.metrics import digits, headings
from analysis.published.paper_numbers import PaperRow, read
from analysis.render.table import Entry, Row

NUMBERS = "arm_table6"
_EXPERTS, _BYTES = "num_experts_used", "edit_state_bytes"
_SCORES = {**headings([_EXPERTS, _BYTES]), **COSTS, **headings(["peak_gpu_gib"])}
_METHODS = {
    "LLaMA2 finetuned": ("ft_l",),
    "WISE": ("wise_merge", "wise_retrieval"),
    "ARM": ("arm",),
}
_OWN, _BASELINES = "arm", ("ft_l", "wise_merge", "wise_retrieval")
_SECONDS = ("edit_seconds", "evaluation_seconds")


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """The paper's rows in its order, a line for each of our arms; then our further methods."""
    columns = ("method", "method_printed", "training_printed", "inference_printed")
    rows, placed = list[Row](), set[str]()
    streams = distinct(section.arms, list(map(_stream, section.arms)))
    labelled = list(zip(section.arms, streams, strict=True))
    for cells in read(NUMBERS, (*columns, "inference_experts")):
        methods = _METHODS[cells["method"]]
        placed.update(methods)
        found = [each for name in methods for each in labelled if each[0].method == name]
        name = name_shown(cells["method"], cells["method_printed"])
        labels = (name, cells["training_printed"], cells["inference_printed"])
        printed = float(cells["inference_experts"])
        rows += [Row((*labels, stream), _entries(arm, printed)) for arm, stream in found]
        if not found:
            rows.append(Row((*labels, NOT_RUN), _entries(None, printed)))
    for arm, stream in ((arm, stream) for arm, stream in labelled if arm.method not in placed):
        labels = (arm.method, NOT_IN_PAPER, NOT_IN_PAPER)
        rows.append(Row((*labels, stream), _entries(arm, None)))
    return Body(
        labels=("Method", "Training", "Inference", "ours"),
        scores=_SCORES,
        rows=tuple(rows),
        notes=(
            "experts: those that hold the edits at the end, of GRACE its entries / the paper's at "
            "inference; MB: what the edits add to the model, in 10^6 bytes",
            EXPLAINED,
            OF_STREAMS,
            'paper, of ARM: "less than a 10% increase in computation time relative to baseline '
            'methods"; below, ours, of the edits without their answers',
        ),
        footer=tuple(_times(labelled)),
        digits={**digits([_EXPERTS]), **dict.fromkeys(_SECONDS, 3)},
    )


def _stream(arm: Arm) -> str:
    """An arm's method and what it edited, such as `arm, serial, 104 edits`."""
    return f"{arm.method}, {arm.protocol['kind']}, {num_edits(arm.protocol)} edits"


def _entries(arm: Arm | None, printed: float | None) -> tuple[Entry, ...]:
    theirs = NOT_IN_PAPER if printed is None else printed
    return tuple(Entry(_ours(arm, name), theirs if name == _EXPERTS else None) for name in _SCORES)


def _ours(arm: Arm | None, name: str) -> Estimate | str:
    if arm is None:
        return NOT_RUN
    if name == _EXPERTS:
        return arm.state or _experts(arm)
    return ours(arm, name) if name == _BYTES else per_edit(arm, name)


def _experts(arm: Arm) -> Estimate | str:
    """How many experts hold the edits at the end; `none` of a method without any."""
    is_routed = "own_expert_rate" in arm.scores
    return arm.scores.get(_EXPERTS, "not measured" if is_routed else "none")


def _times(labelled: Sequence[tuple[Arm, str]]) -> Iterator[str]:
    """For each protocol, ARM's seconds of editing over those of the paper's baselines."""
    for own, stream in labelled:
        if own.method != _OWN or not _edit_seconds(own):
            continue
        among = [arm for arm, _ in labelled if arm.method in _BASELINES]
        same = [arm for arm in among if arm.protocol == own.protocol]
        parts = [
            f"{_edit_seconds(own) / _edit_seconds(arm):.2f} that of {arm.method}"
            for arm in same
            if _edit_seconds(arm)
        ]
        if parts:
            yield f"time of all edits, {stream}: {', '.join(parts)}"


def _edit_seconds(arm: Arm) -> float:
    """Of all edits, mean over seeds; 0 where they were not measured."""
    found = arm.scores.get("edit_seconds")
    return 0.0 if found is None else found.mean


LAYOUT = Layout(
    question="ARM Table 6: experts in training and at inference, and what they cost",
    arrange=arrange,
    has_paper=False,  # the file has no scores
    varying=(
        *("kind", "order", "answers", "num_edits", "edit_batch_size", "num_batches"),
        *("num_questions", "answers_per_question"),
    ),
)
