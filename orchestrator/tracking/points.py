"""Makes the points of a trial's metrics, as MLflow keeps them, of its row in the ledger; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.settings.metrics import means
from orchestrator.store.ledger_rows import EndRow

# Results of a row that are text or bookkeeping, not metrics.
_NOT_METRICS = frozenset({"rung", "progress", "edits_seen", "done", "compared"})


def points(end: EndRow) -> list[tuple[int, int, str, float]]:
    """(milliseconds since 1970, edits seen, name, value) of every checkpoint and of the end.

    Of two values with the same step and time, MLflow takes the larger one for the latest, and all
    rungs of one batch have seen the same edits: each checkpoint has a time of its own. If a trial
    began anew, its new values replace those from before.
    """
    told_at = [*end.checkpoints, end.metrics]
    first = int(end.time * 1000) - len(told_at) + 1
    series: dict[str, list[tuple[int, int, str, float]]] = {}
    for when, point in enumerate(told_at, start=first):
        step = int(point.get("edits_seen", 0))
        numbers = dict(_numbers(point))
        # What a table averages is charted as well, and MLflow cannot average itself.
        averages = means(numbers, end.spec.get("dataset", {}))
        for name, value in (numbers | averages).items():
            told = series.setdefault(name, [])
            while told and told[-1][1] > step:
                told.pop()
            if not told or told[-1][1:] != (step, name, value):  # a last rung is an end as well
                told.append((when, step, name, value))
    return [metric for told in series.values() for metric in told]


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and name not in _NOT_METRICS:
            yield name, float(value)
