"""Ends a trial that takes too long, even one that hangs inside a library."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

from trainables.errors import TrialOverdueError

GRACE_SECONDS = 30.0  # for code that does not come back to Python; then the process ends


class TimeLimit:
    """Raises in the main thread when the time is up; a process that does not react is ended.

    A process that ended that way leaves a marker, and the next one that is given the trial raises
    at once instead of hanging again.
    """

    def __init__(self, max_seconds: float | None, seconds_so_far: float, marker: Path) -> None:
        """Nothing is limited yet.

        Args:
            max_seconds: Of the whole trial; None: no limit.
            seconds_so_far: Used by earlier steps of it.
            marker: File that says that the trial has ended its process.
        """
        self._max = max_seconds
        self._left = None if max_seconds is None else max(max_seconds - seconds_so_far, 1e-3)
        self._marker = marker
        self._last_resort: threading.Timer | None = None

    def __enter__(self) -> TimeLimit:
        """Start the clock.

        Raises:
            TrialOverdueError: If an earlier process had to be ended.
        """
        if self._left is None:
            return self
        if self._marker.exists():
            raise self._error()
        self._before = signal.signal(signal.SIGALRM, self._interrupt)
        self._last_resort = threading.Timer(self._left + GRACE_SECONDS, self._end_process)
        self._last_resort.daemon = True
        self._last_resort.start()
        try:
            signal.setitimer(signal.ITIMER_REAL, self._left)
        except BaseException:  # the time is up already: nobody would stop the clock
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the clock."""
        self._stop()

    def _stop(self) -> None:
        if self._last_resort is None:
            return
        self._last_resort.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise self._error()

    def _end_process(self) -> None:
        self._marker.parent.mkdir(parents=True, exist_ok=True)
        self._marker.touch()
        os._exit(1)

    def _error(self) -> TrialOverdueError:
        return TrialOverdueError(f"took longer than max_trial_seconds={self._max:g}")
