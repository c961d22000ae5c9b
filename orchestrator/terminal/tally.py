"""Counts what has become of a sweep's trials so far: what a screen and a page both show."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import fsum, sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.settings.metrics import Compared
from orchestrator.store.rows import LabelledRow
from orchestrator.terminal.running_trials import Running, RunningTrial, duration

SEEDS_FOR_INTERVAL = 3  # as in the tables: fewer seeds have none here


@dataclass(frozen=True)
class ArmScore:
    """How an arm does so far.

    Attributes:
        name: The arm's.
        mean: Of its score over the seeds that have finished.
        half: Half of the 95% interval over seeds (Student's t); None for fewer than three.
        seeds: How many have finished.
    """

    name: str
    mean: float
    half: float | None
    seeds: int

    @property
    def text(self) -> str:
        """The score with its interval."""
        return f"{self.mean:.2f}" if self.half is None else f"{self.mean:.2f} ± {self.half:.2f}"


@dataclass(frozen=True)
class Standing:
    """A sweep at one moment.

    Attributes:
        total: Trials to end.
        counts: Trials that have ended, by status.
        seconds: Since the sweep began to run trials.
        left_seconds: Until the last one ends, if the others take as long; None before the first.
        doing: What the driver does while no trial runs; "" otherwise.
        running: The trials under way.
        score: Name of what arms are ranked by.
        arms: The best first.
        failures: Failed and diverged trials, by reason, the most frequent first.
    """

    total: int
    counts: Mapping[str, int]
    seconds: float
    left_seconds: float | None
    doing: str
    running: Sequence[RunningTrial]
    score: str
    arms: Sequence[ArmScore]
    failures: Sequence[tuple[str, int]]

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(self.counts.values())

    @property
    def head(self) -> str:
        """How many trials have ended, how, and how long the others take."""
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
        done = f"{self.done}/{self.total} trials" + (f" ({counts})" if counts else "")
        return done if self.left_seconds is None else f"{done}, {duration(self.left_seconds)} left"


class Tally:
    """What has become of the trials of one driver; told and asked by several threads."""

    def __init__(self, total: int, compared: Compared, pulses: Path | None = None) -> None:
        """No trial has ended yet; running ones leave their pulses in the folder `pulses`."""
        self._total, self._compared = total, compared
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._arms: dict[str, list[float]] = {}
        self._stage, self._stage_began = "", self._began
        self._running = Running(pulses)
        self._lock = threading.Lock()

    def stage(self, stage: str) -> None:
        """What the driver does while no trial runs, until the next trial ends."""
        with self._lock:
            self._stage, self._stage_began = stage, time.monotonic()

    def ended(self, row: LabelledRow) -> None:
        """One trial settled."""
        status = row.end.status
        numbers = self._compared.on(row.end.spec.get("dataset", {}))
        score = at_the_end(row.end.metrics, numbers)
        with self._lock:
            self._stage = ""
            self._counts[status] += 1
            if status == "finished" and score is not None:
                self._arms.setdefault(str(row.tags["arm"]), []).append(score)
            if status in ("failed", "diverged"):
                self._failures[str(row.end.error).partition("\n")[0]] += 1
            self._running.ended(row.end.fingerprint)

    def look(self) -> None:
        """Read the pulses, as nobody reports that a trial makes progress."""
        self._running.look()

    def clear(self) -> None:
        """No trial runs any more."""
        self._running.clear()

    def standing(self) -> Standing:
        """All of it now."""
        with self._lock:
            now, done = time.monotonic(), self._counts.total()
            running = self._running.trials
            is_told = bool(self._stage) and not running
            since = duration(now - self._stage_began)
            left = (now - self._began) / done * (self._total - done) if done else None
            return Standing(
                total=self._total,
                counts=dict(self._counts),
                seconds=now - self._began,
                left_seconds=left,
                doing=f"{self._stage}, {since}" if is_told else "",
                running=running,
                # `token` is what a table is in, too, where no measure is named.
                score=self._compared.name.removesuffix(".token"),
                arms=ranked(self._arms, self._compared.sign),
                failures=self._failures.most_common(),
            )


def ranked(arms: Mapping[str, Sequence[float]], sign: int) -> list[ArmScore]:
    """Arms with the values of their seeds, the best first; `sign` is 1 where large is good."""
    found = [
        ArmScore(name, fmean(values), _half(values), len(values)) for name, values in arms.items()
    ]
    return sorted(found, key=lambda arm: -sign * arm.mean)


def at_the_end(metrics: Mapping[str, Any], numbers: Sequence[str]) -> float | None:
    """Mean of these numbers in a trial's last row; None if one is missing."""
    values = [metrics.get(f"{name}.final", metrics.get(name)) for name in numbers]
    if any(value is None for value in values):
        return None
    return fmean(float(value) for value in values if value is not None)


def _half(values: Sequence[float]) -> float | None:
    """Half of the 95% interval of a mean over seeds."""
    count = len(values)
    if count < SEEDS_FOR_INTERVAL:
        return None
    # `statistics.stdev` computes with fractions, four times a second for every arm.
    apart = [value - values[0] for value in values]
    centre = fsum(apart) / count
    variance = fsum((each - centre) ** 2 for each in apart) / (count - 1)
    return _students_t(count - 1) * sqrt(variance / count)


@cache
def _students_t(freedom: int) -> float:
    """Half a 95% interval in standard errors."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, 0.975))
