"""Tells what a trial is doing while it runs, in a small file beside the sweep's results.

The trial says where it is as often as it likes, which costs it nothing; a thread writes what it
said last into `<folder>/<key>.json`, at most every `WRITE_SECONDS`, and not before the trial has
taken as long: quick trials leave no trace. The file is written when the trial has said something,
or when its process has worked since, so that its time of change is the trial's last sign of life.
It is gone when the trial has ended. It is written aside and renamed, so that readers see a whole
file or none.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

WRITE_SECONDS = 2.0
_WORKING = 0.05  # share of a processor: a process that waits for nothing but its end uses less


@dataclass(frozen=True)
class Moment:
    """Where a trial is.

    Attributes:
        stage: loading the backbone, preparing, editing, ...
        batch: Batch of edits under way, counted from 1; 0: none yet.
        num_batches: Of the trial.
        step: Optimiser steps taken in that batch.
        num_steps: Most steps that it takes; 0: there are none to count.
        loss: Of the last step.
    """

    stage: str = "starting"
    batch: int = 0
    num_batches: int = 0
    step: int = 0
    num_steps: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Beat:
    """What one trial's file says.

    Attributes:
        key: The trial's fingerprint.
        name: Of the trial, for a reader.
        moment: Where it is.
        seconds: Since it began.
        stage_seconds: Since its stage began.
        written: Seconds since 1970, by the clock of the shared folder.
    """

    key: str
    name: str
    moment: Moment
    seconds: float
    stage_seconds: float
    written: float


class Pulse:
    """Writes the file of the trial under way; one for each process, for one trial after another."""

    def __init__(
        self, folder: Path | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is written before `begin`; without a folder nothing ever is."""
        self._folder, self._monotonic = folder, monotonic
        self._lock = threading.Lock()  # around the file, which must not come back once removed
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._path: Path | None = None  # of the trial under way
        self._name = ""
        self._moment = Moment()
        self._began = self._stage_began = 0.0
        self._said = self._written = 0  # how often something was said, until when it is written
        self._cpu = 0.0

    def begin(self, key: str, name: str) -> None:
        """Begin a trial; the one before has ended."""
        self.end()
        if self._folder is None:
            return
        with self._lock:
            self._name, self._moment = name, Moment()
            self._began = self._stage_began = self._monotonic()
            self._said, self._written = 1, 0
            self._path = self._folder / f"{key}.json"
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pulse", daemon=True)
            self._thread.start()

    def say(self, moment: Moment) -> None:
        """Note where the trial is now."""
        if self._folder is None:
            return
        if moment.stage != self._moment.stage:
            self._stage_began = self._monotonic()
        self._moment = moment
        self._said += 1

    def stage(self, stage: str) -> None:
        """Note what the trial does now, in the same batch."""
        now = self._moment
        self.say(Moment(stage, now.batch, now.num_batches))

    def step(self, loss: float) -> None:
        """Note one more optimiser step, with its loss."""
        self.say(replace(self._moment, step=self._moment.step + 1, loss=loss))

    @property
    def loss(self) -> float | None:
        """Loss of the last step in the present stage; None before the first."""
        return self._moment.loss

    def tick(self) -> None:
        """Note that the trial has come further within its stage."""
        self._said += 1

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """Within the block, and in all that it calls, `pulse()` returns this one."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def end(self) -> None:
        """Remove the file of a trial that has ended or is given up."""
        with self._lock:
            path, self._path = self._path, None
            if path is not None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """As `end`; nothing is written afterwards."""
        self.end()
        self._is_closed.set()

    def _work(self) -> None:
        while not self._is_closed.wait(WRITE_SECONDS):
            self.write()

    def write(self) -> None:
        """Write what was said last, where there is something new; the thread does it."""
        with self._lock:
            now, said, cpu = self._monotonic(), self._said, time.process_time()
            worked = cpu - self._cpu > _WORKING * WRITE_SECONDS
            self._cpu = cpu
            is_quick = now - self._began < WRITE_SECONDS
            if self._path is None or is_quick or (said == self._written and not worked):
                return
            told = {
                "name": self._name,
                "seconds": now - self._began,
                "stage_seconds": now - self._stage_began,
                **asdict(self._moment),
            }
            aside = self._path.with_suffix(f".{os.getpid()}.part")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                aside.write_text(json.dumps(told))
                aside.replace(self._path)
                self._written = said
            except OSError:
                return  # nobody's result depends on it


_CURRENT: ContextVar[Pulse] = ContextVar("pulse", default=Pulse())  # noqa: B039 - keeps nothing


def pulse() -> Pulse:
    """The pulse of the trial whose step this is; outside of one a pulse that writes nothing."""
    return _CURRENT.get()


def read_pulses(folder: Path) -> list[Beat]:
    """What the trials of a folder say, sorted by their names."""
    beats = [_read(path) for path in sorted(folder.glob("*.json"))]
    return sorted((beat for beat in beats if beat is not None), key=lambda beat: beat.name)


def latest_pulse(folder: Path) -> float | None:
    """Time of the last sign of life of any trial there, seconds since 1970; None without one.

    By the clock of the machine that holds the folder, which need not be this one's: a reader that
    wants to know how long ago looks twice and counts by itself.
    """
    return max((beat.written for beat in read_pulses(folder)), default=None)


def _read(path: Path) -> Beat | None:
    """A trial's file; None where it has just ended, or another program wrote it."""
    try:
        written, told = path.stat().st_mtime, json.loads(path.read_text())
        return _beat(path.stem, told, written)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _beat(key: str, told: Mapping[str, Any], written: float) -> Beat:
    loss = told["loss"]
    moment = Moment(
        stage=str(told["stage"]),
        batch=int(told["batch"]),
        num_batches=int(told["num_batches"]),
        step=int(told["step"]),
        num_steps=int(told["num_steps"]),
        loss=None if loss is None else float(loss),
    )
    seconds, stage_seconds = float(told["seconds"]), float(told["stage_seconds"])
    return Beat(key, str(told["name"]), moment, seconds, stage_seconds, written)
