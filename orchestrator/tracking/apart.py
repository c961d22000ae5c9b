"""Writes ended trials to MLflow in a process of its own, so that it takes no time of the driver's.

To write a run takes MLflow some 20 ms of a processor, most of them in its database library: as much
as all else that the driver does for a trial. The driver sends each row down a pipe, as a line of
JSON; the process, this file run as a program, writes it by a `Tracker` and answers with lines of
JSON: what it wrote, and what went wrong. When the driver ends, by whatever cause, the process reads
the end of its input, writes what it has been sent, and ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from orchestrator.redaction import redacted
from orchestrator.store.ledger_rows import EndRow, read_row
from orchestrator.store.provenance import ROOT
from orchestrator.store.rows import LabelledRow
from orchestrator.threads import uninterrupted
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.tracker import MOST_CLOSE_SECONDS, Tracker

_LOG = logging.getLogger(__name__)
_DONE = object()
_TELL_SECONDS = 1.0  # between two words of what is left, while the driver waits for the end


class TrackerProcess:
    """Like `Tracker`, but the thread that writes is in another process."""

    def __init__(
        self, store: Path, ablation: str, question: str = "", server: str | None = None
    ) -> None:
        """Start the process, which takes seconds to open the store, unless MLflow may have all.

        The process starts with the first row that MLflow lacks, if the database is as a driver
        left it.

        Args:
            store: The sweep's folder.
            ablation: Name of the experiment.
            question: Its description.
            server: Address of an MLflow server; None: the database in the store.
        """
        # The address may hold a password, which a command line would show to all.
        self._hello = {
            "store": str(store),
            "ablation": ablation,
            "question": question,
            "server": server,
        }
        self._mirror = Mirror(store, ablation, question, server)
        self._is_recalled = self._mirror.recall()
        self._experiment_id = self._mirror.experiment_id
        self._num_logged = self._num_there = self._num_written = 0
        self.failures: list[str] = []
        self._queue: queue.Queue[Any] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None  # what the process wrote to standard error
        self._threads: list[threading.Thread] = []
        if not self._is_recalled:
            self._start()

    @property
    def experiment_id(self) -> str:
        """Known after `close`; stays empty when the store cannot be opened."""
        return self._experiment_id

    @property
    def num_unsent(self) -> int:
        """Number of rows that are not in MLflow yet; final once `close` has returned."""
        return self._num_logged - self._num_there - self._num_written

    def log(self, row: LabelledRow) -> None:
        """Queue one end row and return at once; a row that MLflow has already is skipped."""
        self._num_logged += 1
        if self._is_recalled and self._mirror.has_row(row):
            self._num_there += 1
            return
        if self._process is None:
            self._start()
        self._queue.put(row)

    def close(self, most_seconds: float = MOST_CLOSE_SECONDS) -> None:
        """Wait until everything queued is written, or the store is given up.

        Args:
            most_seconds: Longest time in which nothing is written.
        """
        if (process := self._process) is None:
            return
        self._queue.put(_DONE)
        status = self._ended(process, most_seconds)
        if status is None:
            process.kill()
            process.wait()
            self.failures = self.failures or ["it answers too slowly"]
        for thread in self._threads:
            thread.join()
        cause = self._cause()
        if status:
            ended = f"the process that writes into it ended with status {status}"
            self.failures.append(f"{ended}: {cause}" if cause else ended)
        elif cause and self.num_unsent and not self.failures:  # its thread died, which it outlives
            self.failures.append(f"the process that writes into it failed: {cause}")

    def _ended(self, process: subprocess.Popen[str], most_seconds: float) -> int | None:
        """The status of the process when it has ended; None if it writes nothing for so long."""
        num_written, since = self._num_written, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(_TELL_SECONDS, most_seconds))
            if self._num_written != num_written:
                num_written, since = self._num_written, time.monotonic()
            elif time.monotonic() - since >= most_seconds:
                return None

    def _cause(self) -> str:
        """Why the process failed, in one line without secrets; "" if it did not say."""
        said, self._said = self._said, None
        if said is None:
            return ""
        with said:
            said.seek(0)
            return _cause(said.read().decode("utf-8", errors="replace"))

    def _start(self) -> None:
        try:
            with uninterrupted():
                self._begin()
        except BaseException:  # Ctrl-C: the process ends by itself, once it has opened the store
            self._queue.put(_DONE)
            raise

    def _begin(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it; a pipe may fill
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "orchestrator" / "tracking" / "apart.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,  # what is expected to go wrong is told as a line
            # Its own: where another thread sets a variable meanwhile, "Bad address" ends the start.
            env=dict(os.environ),
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver
        )
        for work in (self._send, self._listen):
            self._threads.append(threading.Thread(target=work, name="tracking", daemon=True))
            self._threads[-1].start()

    def _send(self) -> None:
        """Write rows into the pipe, as fast as the process reads them."""
        pipe = self._pipe("stdin")
        # If the process is gone, `close` says so.
        with contextlib.suppress(OSError, ValueError), pipe:
            _write(pipe, self._hello)
            while (row := self._queue.get()) is not _DONE:
                _write(pipe, to_json(row))

    def _listen(self) -> None:
        """Note what the process says, until it ends."""
        with self._pipe("stdout") as pipe:
            for line in pipe:
                told = json.loads(line)
                if "warning" in told:
                    _LOG.warning("%s", told["warning"])
                self._num_written = told.get("num_written", self._num_written)
                self._experiment_id = told.get("experiment_id", self._experiment_id)
                self.failures += told.get("failures", ())

    def _pipe(self, name: str) -> IO[str]:
        pipe = getattr(self._process, name)
        assert pipe is not None
        return pipe  # type: ignore[no-any-return]


def _cause(said: str) -> str:
    """The error of the last traceback in `said`, else its last line, without secrets."""
    _, begin, behind = said.rpartition("Traceback (most recent call last):")
    lines = [line for line in behind.splitlines() if line.strip()]
    named = [line for line in lines if not line.startswith(" ")] if begin else lines[-1:]
    return redacted(named[0].strip()) if named else ""


def to_json(row: LabelledRow) -> dict[str, Any]:
    """A labelled row as JSON; `from_json` reads it."""
    return {
        "end": row.end.to_json(),
        "tags": dict(row.tags),
        "swept": dict(row.swept),
        "run_name": row.run_name,
    }


def from_json(told: Mapping[str, Any]) -> LabelledRow:
    """The row of which `to_json` made this."""
    end = read_row(told["end"])
    assert isinstance(end, EndRow)
    return LabelledRow(end, told["tags"], told["swept"], told["run_name"])


def serve(lines: Iterator[str], answers: IO[str]) -> None:
    """Write all rows that come in, and answer how it goes.

    Args:
        lines: The driver's: first where to write, then one row each.
        answers: What the driver reads.
    """
    logging.getLogger(Tracker.__module__).addHandler(_Warnings(answers))
    hello = json.loads(next(lines))
    tracker = Tracker(Path(hello["store"]), hello["ablation"], hello["question"], hello["server"])
    num_rows = 0
    for line in lines:
        tracker.log(from_json(json.loads(line)))
        num_rows += 1
    closing = threading.Thread(target=tracker.close, args=(None,))
    closing.start()
    while closing.is_alive():
        closing.join(_TELL_SECONDS)
        _write(answers, {"num_written": num_rows - tracker.num_unsent})
    told = {"experiment_id": tracker.experiment_id, "failures": tracker.failures}
    _write(answers, {"num_written": num_rows - tracker.num_unsent, **told})


class _Warnings(logging.Handler):
    """Sends what a `Tracker` warns of to the driver, whose screen it is."""

    def __init__(self, answers: IO[str]) -> None:
        super().__init__(logging.WARNING)
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        """Send one warning."""
        _write(self._answers, {"warning": record.getMessage()})


def _write(pipe: IO[str], told: Mapping[str, Any]) -> None:
    pipe.write(f"{json.dumps(told)}\n")
    pipe.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # a driver that was killed reads no answer
        serve(sys.stdin, sys.stdout)
