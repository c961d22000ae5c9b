"""The outcome of `ablation=everyone`: all editors under one protocol, which no paper has.

Within each protocol the editors stand by their average, the best first; a mean of 3 seeds says
little about two that are closer than their intervals are wide.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate import Arm, Estimate, Section
from analysis.layouts.costs import per_edit
from analysis.layouts.labels import distinct
from analysis.layouts.layout import SCORES, Body, Layout, ours
from analysis.metrics import digits, headings
from analysis.published.paper_numbers import PaperRow
from analysis.render.table import Entry, Row

_KINDS = {"single": "single", "batch": "batch", "lifelong": "stream"}
_KINDS_OF_LOCALITY = ("locality_near", "locality_same", "locality_far")
_FURTHER = headings((*_KINDS_OF_LOCALITY, "portability"))
_AT_ONCE = {"reliability.immediate": "Rel. at once"}
_COSTS = {"edit_state_bytes": "MB", "edit_seconds": "Edit s"}
_COLUMNS = SCORES | _AT_ONCE | _FURTHER | _COSTS
_NOTES = (
    "by protocol, and in each by the average; at once: right behind each batch, before later ones",
    "Loc.: the kind that papers print of the data set, far unless `measure` says otherwise; others "
    "beside it",
    "MB: what the edits add to the model, in 10^6 bytes; seconds an edit, of the machine that ran, "
    "without what is made once ahead of all edits: networks that are trained, second moments",
    "`measure=exact` and `measure=generated` print the same table of whole and of free answers",
)


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per protocol and editor; without locality and portability that no arm was asked for."""
    measured = {name for arm in section.arms for name in arm.scores}
    columns = {k: v for k, v in _COLUMNS.items() if k in measured or k not in _FURTHER}
    arms = sorted(section.arms, key=_place)
    protocols = [_protocol(arm) for arm in arms]
    methods = distinct(arms, [arm.method for arm in arms], protocols)
    rows = (
        Row((protocol, method), tuple(Entry(_cell(arm, name)) for name in columns))
        for arm, protocol, method in zip(arms, protocols, methods, strict=True)
    )
    return Body(("Protocol", "Method"), columns, tuple(rows), notes=_NOTES, digits=_DIGITS)


def _cell(arm: Arm, name: str) -> Estimate | str:
    if name == "edit_seconds":
        return per_edit(arm, name)
    return ours(arm, name)


def _protocol(arm: Arm) -> str:
    kind, edits = str(arm.protocol["kind"]), arm.protocol["num_edits"]
    return f"{_KINDS[kind]} {edits}"


def _place(arm: Arm) -> tuple[int, int, float, str]:
    average = arm.scores.get("average")
    kind = list(_KINDS).index(str(arm.protocol["kind"]))
    return kind, arm.protocol["num_edits"], 0.0 if average is None else -average.mean, arm.method


_DIGITS = digits(_COLUMNS) | {"edit_seconds": 3}
LAYOUT = Layout(
    question="all editors under one protocol: single edits, a batch, streams",
    arrange=arrange,
    has_paper=False,
    varying=("kind", "num_edits", "edit_batch_size", "num_batches", "order"),
)
