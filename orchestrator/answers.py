"""Writes the answers that the questions of a serial sweep get, as `dataset.answers` reads them.

They are drawn anew, as a trial draws them: from the data, the seed and what the backbone knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan, TrialSpec
from orchestrator.precheck import cache_of
from trainables.edits.drawing import draw
from trainables.errors import EditingError
from trainables.reading.answers import answer_lines
from trainables.spec import TrialSpec as ToldSpec
from trainables.trials.workbench import Workbench

OPTION = "--write-answers"


def write_answers(plan: Plan, path: Path) -> str:
    """Write the answers of the one set of questions that all serial trials of a plan draw.

    Returns:
        A line that says what was written.

    Raises:
        UsageError: If there is such a file, no trial is serial, or trials differ in what they draw.
    """
    if path.exists():
        raise UsageError(f"{OPTION} {path}: there is such a file already")
    if not path.absolute().parent.is_dir():  # before anything is drawn, which may take minutes
        raise UsageError(f"{OPTION} {path}: there is no folder {path.parent}")
    serial = [trial for trial in plan.knowable if trial.protocol["kind"] == "serial"]
    if not serial:
        raise UsageError(f"{OPTION} {path}: no trial of this plan is of protocol.kind=serial")
    told = _told_of_the_one_draw(serial, path)
    try:
        drawn = draw(told, Workbench(cache_of(plan.config)).source(told))
    except EditingError as error:
        raise UsageError(str(error)) from error
    num_questions = len(drawn.records) // told.protocol.num_rounds
    asked = [
        (record, [each.target_new for each in drawn.records[number::num_questions]])
        for number, record in enumerate(drawn.records[:num_questions])
    ]
    try:
        path.write_text("".join(answer_lines(asked)), "utf-8")
    except OSError as error:
        raise UsageError(f"{OPTION} {path}: {error.strerror}") from error
    return (
        f"{path}: {num_questions} questions with {told.protocol.num_rounds} answers each, as "
        f"seed {told.seed} draws them; dataset.answers={path} reads them"
    )


def _told_of_the_one_draw(serial: Sequence[TrialSpec], path: Path) -> ToldSpec:
    differing = []
    for key in _decides(serial[0]):
        values = {repr(value): value for value in (_decides(trial)[key] for trial in serial)}
        if len(values) > 1:
            names = [v["name"] if isinstance(v, dict) else v for v in values.values()]
            differing.append(f"{key} {', '.join(map(str, names))}")
    if differing:
        raise UsageError(
            f"{OPTION} {path}: trials of this plan draw different answers "
            f"({'; '.join(differing)}); leave one of each"
        )
    return ToldSpec.parse(serial[0].to_dict())


def _decides(trial: TrialSpec) -> dict[str, Any]:
    """What decides which questions are drawn, and which answers they get."""
    counts = ("protocol.num_questions", "protocol.answers_per_question")
    return {
        "seeds": trial.seed,
        "backbone": trial.backbone,
        "dataset": trial.dataset,
        **{key: trial.value(key) for key in counts},
    }
