"""Writes ended trials to MLflow in a thread, without blocking whoever logs them.

Flat runs, one experiment per ablation; only swept parameters become params. A queue thread writes,
so that a slow or dead store costs no trial anything: what could not be written stays in the ledger.
A server that went away is asked again and again, and after the sweep's end for some seconds more.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout

from orchestrator.redaction import redacted
from orchestrator.store.rows import LabelledRow
from orchestrator.tracking.mirror import Mirror, is_refused

_LOG = logging.getLogger(__name__)
_DONE = object()
MOST_CLOSE_SECONDS = 120.0  # that the end of a sweep waits for a store that answers
PATIENCE_SECONDS = 20.0  # that it waits for a server that does not
_RETRY_SECONDS = 5.0  # between two attempts while the sweep runs
_LAST_RETRY_SECONDS = 1.0  # after its end
_MOST_ATTEMPTS = 3  # at one row, while the store itself can be opened


class Tracker:
    """Writes settled trials of one ablation to MLflow in the background."""

    def __init__(
        self, store: Path, ablation: str, question: str = "", server: str | None = None
    ) -> None:
        """Start a thread that opens the store, which takes seconds, and then writes into it.

        Only the driver does this, and no trial waits for it: a store that cannot be opened costs
        no result either.

        Args:
            store: The sweep's folder.
            ablation: Name of the experiment.
            question: Its description.
            server: Address of an MLflow server; None: the database in the store.
        """
        self._mirror = Mirror(store, ablation, question, server)
        self._is_open = False
        self._outage = ""  # why the store does not answer now
        self._num_logged = self._num_sent = 0
        self.failures: list[str] = []  # of rows that were refused, and of a store that was given up
        self._patience = PATIENCE_SECONDS if server else 0.0  # nobody starts a file again
        self._answered_at = self._closed_at = time.monotonic()
        self._closing = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def experiment_id(self) -> str:
        """Known after `close`; stays empty when the store cannot be opened."""
        return self._mirror.experiment_id

    @property
    def num_unsent(self) -> int:
        """Number of rows that are not in MLflow yet; final once `close` has returned."""
        return self._num_logged - self._num_sent

    def log(self, row: LabelledRow) -> None:
        """Queue one end row and return at once; a row that MLflow has already is skipped."""
        self._num_logged += 1
        self._queue.put(row)

    def close(self, most_seconds: float | None = MOST_CLOSE_SECONDS) -> None:
        """Wait until everything queued is written, or the store is given up.

        Args:
            most_seconds: Longest time for a store that answers; None: no limit.
        """
        self._closed_at = time.monotonic()
        self._closing.set()
        self._queue.put(_DONE)
        self._thread.join(most_seconds)
        if self._thread.is_alive():
            self.failures.append(self._outage or "it answers too slowly")

    def _work(self) -> None:
        with quiet():
            if not self._mirror.recall():
                self._try_to_open()
            while (row := self._queue.get()) is not _DONE:
                while not self._try_to_write(row):
                    if not self._may_try_again():
                        self.failures.append(self._outage)
                        return
            if self._is_open:
                with contextlib.suppress(OSError):  # the next driver looks for itself
                    self._mirror.remember()

    def _try_to_open(self) -> bool:
        """Whether the store is open now; if not, keeps the reason."""
        if self._is_open:
            return True
        try:
            self._mirror.open()
        except Exception as error:  # noqa: BLE001 - a dead store must not stop the sweep
            reason = _reason(error)
            if not self._outage:
                _LOG.warning("MLflow: %s; results wait in the ledger", reason)
            self._outage = reason
            return False
        self._is_open, self._outage, self._answered_at = True, "", time.monotonic()
        return True

    def _try_to_write(self, row: LabelledRow) -> bool:
        """Whether a row was written or refused; False if nobody answers."""
        if self._mirror.has_row(row):
            self._num_sent += 1
            return True
        reason = ""
        for _ in range(_MOST_ATTEMPTS):
            if not self._try_to_open():
                return False
            try:
                self._mirror.write(row)
            except Timeout as error:
                self._outage = _reason(error)
                return False
            except Exception as error:  # noqa: BLE001 - as above
                reason = _reason(error)
                if is_refused(error):
                    break
                self._is_open = False  # what was written of the row is looked up again
            else:
                self._num_sent += 1
                self._outage, self._answered_at = "", time.monotonic()
                return True
        self.failures.append(reason)
        _LOG.warning("MLflow: %s", reason)
        return True

    def _may_try_again(self) -> bool:
        """Wait a little; False if, after the sweep's end, nobody has answered for too long."""
        if not self._closing.wait(_RETRY_SECONDS):
            return True
        silent_since = max(self._closed_at, self._answered_at)
        if time.monotonic() - silent_since >= self._patience:
            return False
        time.sleep(_LAST_RETRY_SECONDS)
        return True


def _reason(error: Exception) -> str:
    """The first line of an error, without secrets."""
    if isinstance(error, Timeout):
        return "another driver of this store does not end what it writes"
    lines = redacted(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences MLflow's messages about tables and retries, and its tracebacks, in the block.

    Whatever goes wrong is also raised, and reported in one line.
    """
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
