"""Ends a sweep early without losing a row, and so that no library can swallow the reason."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Ctrl-C ends a sweep at once, or, inside `deferred`, after the row being written.

    It is remembered as well as raised: a KeyboardInterrupt that arrives inside a library's callback
    or clean-up is dropped there, and the sweep would go on as if nothing had been typed.
    """

    def __init__(self) -> None:
        """Not interrupted yet."""
        self.is_set = False
        self._failure: Exception | None = None
        self._is_deferred = False

    def fail(self, error: Exception) -> None:
        """End Tune's loop, as Ctrl-C does, for an error that Tune would bury in its own."""
        self._failure = self._failure or error

    def force(self) -> None:
        """End at once, as the second Ctrl-C does, whatever library the main thread is in."""
        self._is_deferred = False
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    @property
    def is_over(self) -> bool:
        """True from the interruption, or the failure, on."""
        return self.is_set or self._failure is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C until the end of the block."""
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            is_second, self.is_set = self.is_set, True
            if is_second or not self._is_deferred:
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first Ctrl-C is only remembered.

        Raises:
            KeyboardInterrupt: At either end of the block, if there was one.
            Exception: What `fail` was told.
        """
        self._raise_if_set()
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
            # On a full disk the library fails, too, over its own files: that is not the reason.
            if self._failure is not None:
                raise self._failure
        self._raise_if_set()

    def _raise_if_set(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.is_set:
            raise KeyboardInterrupt
