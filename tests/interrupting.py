"""Ctrl-C at the one moment that matters to a thread: while it begins."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ctrl_c_while_a_thread_begins() -> Iterator[None]:
    """Inside, SIGINT arrives when `Thread.start` of the first thread waits for it."""
    begin = threading.Thread.start.__code__

    def trace(frame: FrameType, event: str, _: object) -> None:
        caller = frame.f_back
        if caller is not None and caller.f_code is begin and frame.f_code.co_name == "wait":
            sys.settrace(before)
            signal.raise_signal(signal.SIGINT)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
