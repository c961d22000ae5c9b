"""Watches Tune's loop from another thread: it must make progress, and stop when it is told to."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from orchestrator.errors import StandstillError
from orchestrator.running.interruption import Interruption
from orchestrator.threads import uninterrupted
from trainables.pulse import latest_pulse

LOOK_SECONDS = 1.0
PULSE_SECONDS = (
    30.0  # between two looks at the files of all running trials, which may be a thousand
)
HEARD_SECONDS = 5.0  # in which a loop that is not stuck has ended when it is told to


class PulseTaker:
    """Looks now and then for the latest sign of life of any running trial."""

    def __init__(
        self,
        folder: Path | None,
        max_silent_seconds: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet; for `folder` see `trainables.pulse`."""
        self._folder = folder
        self._between = min(PULSE_SECONDS, (max_silent_seconds or PULSE_SECONDS) / 4)
        self._monotonic = monotonic
        self._felt: float | None = None
        self._felt_at = -math.inf

    def latest(self) -> float | None:
        """What `latest_pulse` found when it last looked; it looks again only now and then."""
        now = self._monotonic()
        if self._folder is not None and now - self._felt_at >= self._between:
            self._felt, self._felt_at = latest_pulse(self._folder), now
        return self._felt


class Watchdog:
    """Ends a Tuner that made no progress for too long, or that does not stop when told to.

    Tune can wait for minutes for a trial that never comes, without asking whether to go on; only
    another thread can notice that.
    """

    def __init__(
        self,
        interruption: Interruption,
        max_silent_seconds: float | None,
        sign_of_life: Callable[[], object],
        due: Callable[[], str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nobody looks yet.

        Args:
            interruption: Is told when there is no progress, and says when the sweep is over.
            max_silent_seconds: Longest time without progress; None: no limit.
            sign_of_life: Returns a new value whenever a trial has made progress.
            due: Returns a text that says what is waited for.
            monotonic: Seconds since some start.
        """
        self._interruption = interruption
        self._max_silent = max_silent_seconds
        self._sign_of_life = sign_of_life
        self._due = due
        self._monotonic = monotonic
        self._sign: object = None
        self._moved_at = monotonic()
        self._over_at: float | None = None
        self._has_left = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Watchdog:
        """Begin to look."""
        try:
            with uninterrupted():
                self._thread.start()
        except BaseException:  # Ctrl-C: it would be told again and again
            self._has_left.set()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more."""
        self._has_left.set()
        self._thread.join()

    def look(self) -> None:
        """Look once."""
        now = self._monotonic()
        if self._interruption.is_over:
            self._over_at = now if self._over_at is None else self._over_at
            if now - self._over_at >= HEARD_SECONDS:
                self._over_at = now  # a library may drop what is raised inside it: again, then
                self._interruption.force()
            return
        sign = self._sign_of_life()
        if sign != self._sign:
            self._sign = sign
            self._moved_at = now
        if self._max_silent is not None and now - self._moved_at >= self._max_silent:
            self._interruption.fail(
                StandstillError(
                    f"nothing has moved for max_silent_seconds={self._max_silent:g} ({self._due()})"
                )
            )

    def _look_on(self) -> None:
        while not self._has_left.wait(LOOK_SECONDS):
            self.look()
