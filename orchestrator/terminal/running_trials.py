"""Reads the pulses of the running trials: what each does, and since when."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables.pulse import Beat, Moment, read_pulses

SCRATCH = "ray"  # folder of the store: what a driver needs while it lives
SILENT_SECONDS = 30.0  # without a sign of life, from which on it is said


@dataclass(frozen=True)
class RunningTrial:
    """One running trial: its arm and seed, what it does, and for how long it has run."""

    name: str
    doing: str
    time: str


class Running:
    """The trials of one driver that run now.

    The age of a trial's last sign of life is counted by the driver's own clock, from when it saw
    the file change, because another node's clock may be wrong.
    """

    def __init__(
        self, folder: Path | None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """No trial runs yet; `folder` is where trials leave their pulses."""
        self._folder, self._monotonic = folder, monotonic
        self._ended: set[str] = set()
        self._seen: dict[str, tuple[Beat, float]] = {}  # and when it was first seen like that

    def look(self) -> None:
        """Read the pulses."""
        if self._folder is None:
            return
        now, seen = self._monotonic(), dict(self._seen)
        found = {}
        for beat in read_pulses(self._folder):
            last, since = seen.get(beat.key, (None, now))
            found[beat.key] = (beat, since if last == beat else now)
        self._seen = found

    def ended(self, key: str) -> None:
        """A trial has ended; a pulse that its killed process left behind no longer counts."""
        self._ended.add(key)

    def clear(self) -> None:
        """Remove the pulses of all trials; none runs any more."""
        self._seen = {}
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def trials(self) -> list[RunningTrial]:
        """The running trials as last seen, by name."""
        now = self._monotonic()
        living = [
            (beat, now - at) for key, (beat, at) in self._seen.items() if key not in self._ended
        ]
        return [running_trial(beat, age) for beat, age in living]


def pulse_folder(store: Path, driver: str) -> Path:
    """The folder of pulses of one driver's trials; `driver` is the name of its segment."""
    return store / SCRATCH / driver / "pulses"


def running_trial(beat: Beat, age: float = 0.0) -> RunningTrial:
    """The trial whose pulse, `age` seconds old, is `beat`."""
    doing = _doing(beat.moment, beat.stage_seconds + age)
    if age > SILENT_SECONDS:
        doing += f", silent for {duration(age)}"
    return RunningTrial(beat.name, doing, duration(beat.seconds + age))


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any: 1:05, 2:00:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _doing(moment: Moment, stage_seconds: float) -> str:
    parts = []
    if moment.num_batches > 1:
        parts.append(f"batch {moment.batch}/{moment.num_batches}")
    if moment.stage != "editing" or not moment.num_steps:
        parts.append(f"{moment.stage} {duration(stage_seconds)}")
    if moment.num_steps:
        parts.append(f"step {moment.step}/{moment.num_steps}")
    if moment.loss is not None:
        parts.append(f"loss {moment.loss:.3g}")
    return ", ".join(parts)
