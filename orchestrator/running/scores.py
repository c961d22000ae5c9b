"""Keeps the scores that a search compares: of each trial at its end, or where it was stopped."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from orchestrator.planning.cell import Remembered
from orchestrator.settings.metrics import Compared
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.rows import Row


class Scores:
    """Scores of ended trials, by fingerprint."""

    def __init__(self, compared: Compared) -> None:
        """No trial has ended."""
        self._compared = compared
        self._values: dict[str, float] = {}
        self._finished: dict[str, None] = {}  # in the order of their ends
        self._stopped_at: dict[str, int] = {}  # rungs behind which a scheduler ended trials

    def note(self, end: EndRow) -> None:
        """Remember the score of an end row, if it has one that can be compared.

        A trial that was compared by another metric, or by none, has one if it ran to its end.
        """
        key, value = end.fingerprint, end.metrics.get("compared")
        if value is None or end.compared_by not in ("", self._compared.name):
            is_whole, dataset = end.status == "finished", end.spec.get("dataset", {})
            value = self._compared.at_the_end(end.metrics, dataset) if is_whole else None
        if value is None or not math.isfinite(value):
            return
        self._values[key] = float(value)
        if end.status == "finished":
            self._finished[key] = None
            self._stopped_at.pop(key, None)
        elif end.status == "stopped":
            self._stopped_at[key] = int(end.metrics["rung"])

    def remembered(self, key: str, rungs: Sequence[Row] = ()) -> Remembered:
        """What a search is told of a trial that has run or runs; `rungs` are for the scheduler."""
        return Remembered(self._values.get(key), rungs, self._stopped_at.get(key))

    def best(self, num_trials: int, among: Collection[str]) -> list[str]:
        """Keys of the best finished trials; of equal ones the first to end comes first."""
        finished = [key for key in self._finished if key in among]
        ranked = sorted(finished, key=lambda key: -self._compared.sign * self._values[key])
        return ranked[:num_trials]
