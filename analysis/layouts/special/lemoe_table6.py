"""LEMoE Table 6 (Appendix B): size of each data set, and the unedited model's score on it.

ACC is what the model answers of the edits before any of them, PPL the perplexity that it gives the
passages of SelfCheckGPT. Every trial records both before its first edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.aggregate import Arm, Estimate, Section
from analysis.counts import num_edits
from analysis.layouts.layout import NOT_IN_PAPER, NOT_PRINTED, NOT_RUN, Body, Layout
from analysis.published.compare import same_name
from analysis.published.paper_numbers import PaperRow, read
from analysis.render.table import Entry, Row

NUMBERS = "lemoe_table6"
_KNOWN = "known_share"
_PRINTED_AS = {"pre_edit_accuracy": "reliability", "pre_edit_perplexity": "perplexity.mean"}
_SCORES = {
    "reliability": "Pre-edit ACC",
    "perplexity.mean": "Pre-edit PPL",
    _KNOWN: "True answers known",
}


@dataclass(frozen=True)
class _Sample:
    """What was edited, and an arm that says what was known of it before."""

    dataset: str
    backbone: str
    size: int
    arm: Arm


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per data set and model, the paper's first, and one for each number of edits of ours."""
    columns = ("dataset", "model", "num_samples", "metric", "value")
    ours, rows = _samples(section.arms), list[Row]()
    for cells in read(NUMBERS, columns):
        printed = {_PRINTED_AS[cells["metric"]]: float(cells["value"])}
        labels = (cells["dataset"], cells["model"], cells["num_samples"])
        found = [
            each
            for each in ours
            if same_name(each.dataset, labels[0]) and same_name(each.backbone, labels[1])
        ]
        ours = [each for each in ours if each not in found]
        for each in found or (None,):
            size = NOT_RUN if each is None else str(each.size)
            rows.append(Row((*labels, size), _entries(each, printed, NOT_PRINTED)))
    for each in ours:
        labels = (each.dataset, each.backbone, NOT_IN_PAPER)
        rows.append(Row((*labels, str(each.size)), _entries(each, {}, NOT_IN_PAPER)))
    return Body(
        labels=("Editing data", "Model", "T", "ours T"),
        scores=_SCORES,
        rows=tuple(rows),
        notes=(
            "T: edits; ACC: answers of the unedited model that are the edits' new ones, PPL: its "
            "mean perplexity of the edits' passages",
            "the paper does not say whether its ACC counts new or true answers; how many of the "
            "true ones our model gives stands in the last column",
        ),
    )


def _samples(arms: Sequence[Arm]) -> list[_Sample]:
    """One for each data set, model and size: with one seed arms that edit as many edit the same.

    Of several arms the one with most seeds speaks.
    """
    found: dict[tuple[str, str, int], Arm] = {}
    for arm in arms:
        key = (arm.context["dataset"], arm.context["backbone"], num_edits(arm.protocol) or 0)
        if key not in found or _num_seeds(arm) > _num_seeds(found[key]):
            found[key] = arm
    return [_Sample(*key, arm) for key, arm in sorted(found.items(), key=lambda pair: pair[0])]


def _num_seeds(arm: Arm) -> int:
    return max((value.num_seeds for value in arm.before.values()), default=0)


def _entries(
    sample: _Sample | None, printed: Mapping[str, float], absent: str
) -> tuple[Entry, ...]:
    return tuple(
        Entry(
            NOT_RUN if sample is None else _ours(sample.arm, name),
            None if name == _KNOWN else printed.get(name, absent),
        )
        for name in _SCORES
    )


def _ours(arm: Arm, name: str) -> Estimate | str:
    # What a backbone knew of the data is logged once, not by moment.
    return (arm.scores if name == _KNOWN else arm.before).get(name, "not measured")


LAYOUT = Layout(
    question="LEMoE Table 6: size of each data set, and the unedited model's score on it",
    arrange=arrange,
    has_paper=False,  # the file has no scores of edits
    varying=(
        *("backbone", "dataset", "kind", "order", "num_edits", "edit_batch_size", "num_batches"),
    ),
)
