"""Ctrl-C during a sweep: Tune's loop ends behind the row under way, and the sweep hears of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray import tune


class Interruption(tune.Stopper):
    """Ctrl-C once ends Tune's loop behind the row under way; a second one ends it at once."""

    def __init__(self) -> None:
        """Not interrupted yet."""
        self.is_set = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped for its own result."""
        return False

    def stop_all(self) -> bool:
        """True from the interruption on."""
        return self.is_set

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C, from the second on as before.

        Raises:
            KeyboardInterrupt: At the end, if there was one.
        """
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.is_set = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self.is_set:
            raise KeyboardInterrupt
