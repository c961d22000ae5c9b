"""Writes the page of a store again and again while a sweep runs, which says how it stands."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from analysis.errors import AnalysisError
from analysis.page.content import EMPTY, Page
from analysis.reading.database import DATABASE
from analysis.render.files import write_file

_OTHER_WORK = 9.0  # times as long as making tables and figures took, until they are made again
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class LiveArm:
    """An arm's score so far: mean over seeds and half of its 95% interval, if there are enough."""

    name: str
    mean: float
    half: float | None
    seeds: int


@dataclass(frozen=True, config=_STRICT)
class LiveTrial:
    """A running trial, what it does, and for how long it has run."""

    name: str
    doing: str
    time: str


@dataclass(frozen=True, config=_STRICT)
class LiveFailure:
    """Why trials failed or diverged, and how many."""

    reason: str
    count: int


@dataclass(frozen=True, config=_STRICT)
class Live:
    """How a sweep stands, as its driver tells it.

    Attributes:
        ablation: What is swept.
        every_seconds: Until the next telling.
        total: Trials to end.
        counts: Trials that have ended, by status.
        elapsed: Time since the first began, as minutes and seconds.
        left: Time until the last ends, likewise; "" before it can be told.
        doing: What the driver does while no trial runs.
        score: What the arms are ranked by.
        arms: The best first.
        num_arms: Of all arms with a score.
        running: The first of the trials under way.
        num_running: Of all of them.
        failures: The most frequent first.
    """

    ablation: str
    every_seconds: int
    total: int
    counts: dict[str, int]
    elapsed: str
    left: str = ""
    doing: str = ""
    score: str = ""
    arms: list[LiveArm] = field(default_factory=list)
    num_arms: int = 0
    running: list[LiveTrial] = field(default_factory=list)
    num_running: int = 0
    failures: list[LiveFailure] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(self.counts.values())


_LIVE = TypeAdapter(Live)


def follow(
    lines: Iterable[str],
    store: Path,
    path: Path,
    *,
    page_of: Callable[[], Page],
    html_of: Callable[[Page, Live | None], str],
    is_local: bool = True,
) -> None:
    """Write the page with each line, and without any at their end.

    Tables and figures are made again when something has ended, and not for most of the time; how
    the sweep stands is written with each line.

    Args:
        lines: What the driver says, a JSON object a line; read in a thread, the newest counts.
        store: Folder of the sweep's store.
        path: The page's file.
        page_of: Makes all of the page that the store tells.
        html_of: Makes the page's text.
        is_local: Whether the runs are in the store's own database.

    Raises:
        AnalysisError: By the last writing: if the store tells nothing; if a page cannot be written.
    """
    page, seen, rests_until = replace(EMPTY, stores=(store.resolve().name,)), None, 0.0
    for line in _newest(lines):
        live = _live(line)
        state = _state(store) if is_local else object()
        if live is None:
            continue
        if state != seen and time.monotonic() >= rests_until:
            began = time.monotonic()
            with contextlib.suppress(AnalysisError):  # nothing has ended yet, for one
                page, seen = page_of(), state
            ended = time.monotonic()
            rests_until = ended + _OTHER_WORK * (ended - began)
        write_page(path, html_of(page, live))
    try:
        page = page_of()
    finally:  # whatever it is, it changes no more
        write_page(path, html_of(page, None))


def write_page(path: Path, text: str) -> None:
    """Write the page's file anew.

    Raises:
        OutputError: If it cannot be written.
    """
    write_file(path, text.encode(), "out")


def _newest(lines: Iterable[str]) -> Iterable[str]:
    """The newest line whenever one is asked for; those that it came too late for are left out."""
    told: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in lines:
            told.put(line)
        told.put(None)

    threading.Thread(target=read, name="reader", daemon=True).start()
    while (line := told.get()) is not None:
        while not told.empty():
            following = told.get()
            if following is None:
                return
            line = following
        yield line


def _live(line: str) -> Live | None:
    """What a line says; None of one that was torn when the driver was killed."""
    try:
        return _LIVE.validate_json(line)
    except ValidationError:
        return None


def _state(store: Path) -> Any:
    """A value that changes when something is written into the store's database."""
    try:
        status = (store / DATABASE).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
