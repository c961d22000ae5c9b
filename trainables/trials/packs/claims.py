"""Says which process trains which trial ahead, in files of a folder that all of them share.

A claim is a lock that the system takes back when its process ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_SECONDS = 1.0
_NO_LOCKS = (OSError, NotImplementedError)  # of a file system that has none


class Claims:
    """Trials that a process was given, and those that one trains ahead."""

    def __init__(self, folder: Path) -> None:
        """`folder` belongs to one driver."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, key: str, waits: Callable[[], None] = lambda: None) -> None:
        """Take a trial that this process was given; from now on nobody trains it ahead.

        Waits as long as another process does, and calls `waits` meanwhile.
        """
        lock = self._lock(key)
        with suppress(*_NO_LOCKS):  # then nobody trains anything ahead
            while True:
                try:
                    lock.acquire(timeout=_POLL_SECONDS)
                    break
                except Timeout:
                    waits()
        try:
            self._mark(key).touch()
        finally:
            lock.release()

    @contextmanager
    def claimed(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Within the block this process alone trains some trials: those that no process has yet."""
        with ExitStack() as held:
            found = []
            for key in keys:
                lock = self._lock(key)
                try:
                    lock.acquire(timeout=0)
                except (Timeout, *_NO_LOCKS):
                    continue
                if self._mark(key).exists():
                    lock.release()
                    continue
                held.callback(lock.release)
                found.append(key)
            yield found

    def _lock(self, key: str) -> FileLock:
        return FileLock(self._folder / f"{key}.lock")

    def _mark(self, key: str) -> Path:
        return self._folder / f"{key}.begun"
