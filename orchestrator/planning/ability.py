"""What a plan knows of the tasks that `evaluate.ability` names: where their files are, their cost.

Which tasks there are is checked with the trials' other settings, as lm-evaluation-harness knows
more than the files of `search_spaces/ability/`; `trainables/ability/definitions.py` reads the rest
of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.settings.models import SweepConfig

_GROUP = "ability"
# Of a task of the harness itself: it is not opened for a forecast.
_UNKNOWN = {"questions": 1000, "tokens": 200, "generated": 0}


def asked(config: SweepConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The part `evaluate` of each trial, empty where nothing is asked, and what it costs.

    The latter is `ability`: how many tokens one asking reads, and generates, in all tasks, and the
    most tokens of a question.
    """
    wanted = config.evaluate
    if not wanted.ability:
        return {}, {}
    path = wanted.path
    part: dict[str, Any] = {
        "ability": list(wanted.ability),
        "questions": wanted.questions,
        "path": _absolute(path)
        if path is None or isinstance(path, str)
        else list(map(_absolute, path)),
    }
    counts = {"read": 0.0, "generated": 0.0, "longest": 0.0}
    known = config.spaces.names(_GROUP)
    for name in wanted.ability:
        cost: Mapping[str, Any] = (
            config.spaces.load(_GROUP, name)["cost"] if name in known else _UNKNOWN
        )
        questions = min(wanted.questions or cost["questions"], cost["questions"])
        counts["read"] += questions * cost["tokens"]
        counts["generated"] += questions * cost["generated"]
        counts["longest"] = max(counts["longest"], cost["tokens"] + cost["generated"])
    return part, {"ability": counts}


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())
