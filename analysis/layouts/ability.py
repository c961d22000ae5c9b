"""Layout of Figure 3 of MEMoE v1 and v2: what edits change of tasks that they are not about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from analysis.aggregate import Arm, Estimate, Section, estimate
from analysis.intervals import SEEDS_FOR_T, interval_of_change
from analysis.layouts.labels import distinct
from analysis.layouts.layout import Body, Layout, ours
from analysis.metrics import METRICS, headings, metric
from analysis.published.paper_numbers import PaperRow
from analysis.reading.runs import read_records
from analysis.render.table import Entry, Row

RELIABILITY = "reliability"  # of the edits: one that does not take costs nothing
UNEDITED = "unedited"  # the first label of the row with the backbone's own scores
SCORE, CHANGE = "ability.", "ability_change."  # how keys begin
_MOMENT = "ability"  # of the lines of a per-record file that hold answers to tasks
_KINDS = {
    "single": "single edits",
    "batch": "batch of {edits}",
    "lifelong": "stream, {edits} edits",
    "serial": "serial stream, {edits} edits",
}
_ABSENT = "not asked"
_NOTES = (
    "first row: what the unedited backbone scores; all others: the change of that score; Rel.: of "
    "the edits themselves",
    "changes are paired, the same questions before and after; ±: 95% over seeds (Student's t); "
    "[low, high], with fewer than 3 seeds: 95% bootstrap over the questions, of Rel. over subjects",
    "each batch is rolled back after it was measured; a stream is measured at its end",
)
_OF_TEXT = "World text: perplexity, which a loss of ability raises; it lowers all other scores"
_NOTHING = "nothing was asked: add evaluate.ability=[TASK, ...] to the sweep"
_PAPER = (
    "paper (no numbers): after batches of growing size MEMoE stays about level on eight tasks, "
    "MEMIT and MEND lose more the more is edited at once"
)


def ability_layout(figure: str, without: str) -> Layout:
    """The layout of one paper's figure, which leaves out the method of the other paper.

    Args:
        figure: Its name.
        without: That method.
    """

    def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
        arms = tuple(arm for arm in section.arms if arm.method != without)
        return _body(replace(section, arms=arms), len(section.arms) - len(arms), without)

    return Layout(
        question=f"{figure}: what edits change of tasks that they are not about",
        arrange=arrange,
        has_paper=False,
        varying=("kind", "num_edits", "edit_batch_size", "num_batches", "order"),
    )


def _body(section: Section, num_left_out: int, without: str) -> Body:
    """A row per method and number of edits, a column per task behind the edits' own reliability.

    The first row is the backbone's own.
    """
    tasks = _tasks(section.arms)
    scores = {f"{CHANGE}{task}": _heading(task) for task in tasks}
    before = tuple(Entry(_before(section.arms, task)) for task in tasks)
    arms = sorted(section.arms, key=_place)
    edits = distinct(arms, list(map(_edits, arms)), [arm.method for arm in arms])
    rows = (
        Row((arm.method, label), (Entry(ours(arm, RELIABILITY)), *map(Entry, _changes(arm, tasks))))
        for arm, label in zip(arms, edits, strict=True)
    )
    has_text = any(_is_perplexity(task) for task in tasks)
    left_out = f"left out: {num_left_out} arms of {without}, which is not in this figure"
    return Body(
        labels=("Method", "Edits"),
        scores=headings([RELIABILITY]) | scores,
        rows=(Row((UNEDITED, "-"), (Entry("-"), *before)), *rows) if tasks else (),
        notes=(*(_NOTES if tasks else (_NOTHING,)), *((_OF_TEXT,) if has_text else ()), _PAPER),
        footer=(left_out,) if num_left_out else (),
        has_own_intervals=True,
        context={"protocol": _protocol(section)},
        digits={f"{CHANGE}{task}": 2 if _is_perplexity(task) else 3 for task in tasks},
    )


def _tasks(arms: Sequence[Arm]) -> list[str]:
    """Names of all tasks that were asked, in the order of `metrics.yaml`."""
    found = {name for arm in arms for name in (*arm.scores, *arm.before) if name.startswith(SCORE)}
    declared = [name for name in METRICS if name in found]
    return [name.removeprefix(SCORE) for name in (*declared, *sorted(found - set(declared)))]


def _heading(task: str) -> str:
    declared = METRICS.get(f"{SCORE}{task}")
    return task if declared is None else declared.heading


def _is_perplexity(task: str) -> bool:
    declared = metric(f"{SCORE}{task}")
    return declared is not None and declared.kind == "perplexity"


def _before(arms: Sequence[Arm], task: str) -> Estimate | str:
    """The backbone's own score: the same in every trial, so that it has no interval."""
    found = [arm.before[name] for arm in arms if (name := f"{SCORE}{task}") in arm.before]
    return Estimate(found[0].mean, found[0].num_seeds) if found else _ABSENT


def _changes(arm: Arm, tasks: Sequence[str]) -> list[Estimate | str]:
    """The change of each task's score, with its interval over seeds or questions."""
    found = [ours(arm, f"{CHANGE}{task}") for task in tasks]
    if arm.state or len(arm.seeds) >= SEEDS_FOR_T:
        return found
    frames = [read_records(address, arm.context["dataset"], _MOMENT) for address in arm.records]
    return [
        each if isinstance(each, str) else _with_interval(each, frames, task)
        for each, task in zip(found, tasks, strict=True)
    ]


def _with_interval(change: Estimate, frames: Sequence[pd.DataFrame | None], task: str) -> Estimate:
    asked = [_of_task(frame, task) for frame in frames if frame is not None]
    whole = len(asked) == len(frames) and all(len(part) for part in asked)
    return estimate(change.by_seed, interval_of_change(asked) if whole else None)


def _of_task(records: pd.DataFrame, task: str) -> pd.DataFrame:
    return records[records["score"] == f"{SCORE}{task}"]


def _protocol(section: Section) -> str:
    """What all arms share; sizes stand in the rows."""
    words = {True: "yes", False: "no"}
    shared = (
        f"{key} {words[value] if isinstance(value, bool) else value}"
        for key, value in section.protocol.items()
        if value is not None
    )
    return ", ".join(shared)


def _edits(arm: Arm) -> str:
    return _KINDS[str(arm.protocol["kind"])].format(edits=arm.protocol["num_edits"])


def _place(arm: Arm) -> tuple[bool, str, int, int]:
    """By method, MEMoE first; then batches by size, streams last."""
    kind = list(_KINDS).index(str(arm.protocol["kind"]))
    is_rival = not arm.method.startswith("memoe")
    return is_rival, arm.method, kind, int(arm.protocol["num_edits"])
