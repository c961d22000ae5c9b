"""How the threads of a process begin and wait, and how many CPUs it may use; light to import."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def wait_passively() -> None:
    """Make OpenMP's threads sleep while they wait; call it before torch is imported.

    By default they spin, so that one that shares its core with another process holds up all
    others: training then takes many times as long. libgomp, which torch brings, reads the first;
    the second is of Intel's and LLVM's run-time. What the user has set stays. Ray's workers inherit
    both from a driver that starts Ray.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C inside the block is handled at its end; the block must be short.

    For what begins a thread: `Thread.start` waits for the new one, and an exception that a signal's
    handler raises in that wait leaves a thread that runs, or will, and that cannot be joined.
    Outside the main thread, where no handler runs, it does nothing.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def usable_cpus(quota: Path = _QUOTA) -> int:
    """CPUs that this process may use, by its affinity and its control group's share.

    In a container with a share of a large machine, `os.cpu_count()` counts all CPUs.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = allowed or 1
    try:
        most, period = quota.read_text().split()
        return max(1, min(count, math.ceil(int(most) / int(period))))
    except (OSError, ValueError):  # none there, or `max`: no limit
        return count
