"""The sweep's own memory: one append-only file of JSON lines per driver, merged on reading.

Every row is handed to the system before the driver goes on, so that a driver's crash takes at most
the line that was being written; a machine's takes no row that was committed, and nothing is told of
a row before. Nothing is ever rewritten; a later row of the same trial wins.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from orchestrator.errors import LedgerError
from orchestrator.store.ledger_rows import (
    SCHEMA,
    STATUSES,
    CheckpointRow,
    EndRow,
    LedgerRow,
    NewerSchemaError,
    Shared,
    read_row,
)

FOLDER = "ledger"
_BLOCK = 500  # lines that are parsed together
_NO_JSON = object()


@dataclass(frozen=True)
class History:
    """What the drivers of a store have written so far.

    Attributes:
        ends: Last end row per fingerprint.
        checkpoints: Checkpoint rows per fingerprint, oldest first.
        damaged: `file:line` of every unreadable line, other than the torn last one of a file.
        last_time: Latest time of all rows, seconds since 1970; 0 if there is none.
    """

    ends: dict[str, EndRow] = field(default_factory=dict)
    checkpoints: dict[str, list[CheckpointRow]] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    last_time: float = 0.0

    def settled(self, *, retry_failed: bool = False, complete_stopped: bool = False) -> set[str]:
        """Fingerprints of trials that need not run again.

        Failed ones count unless `retry_failed`, those that a scheduler stopped unless
        `complete_stopped`. A trial that was interrupted (`stop_reason`) is never settled, one that
        diverged always.
        """
        reopened = {"failed"} if retry_failed else set()
        reopened |= {"stopped"} if complete_stopped else set()
        return {
            fingerprint
            for fingerprint, row in self.ends.items()
            if row.status not in reopened and row.stop_reason != "interrupted"
        }


class Ledger:
    """The segment of one driver; open with `Ledger.open`, or in a `with` statement.

    Attributes:
        path: Its file.
        is_committed: Whether the disk surely has every row that was added.
    """

    def __init__(self, path: Path, file: BinaryIO, after: float = 0.0) -> None:
        """Write to `file`; unbuffered, so that no close ever has to write what is left."""
        self.path = path
        self._file = file
        self._last_time = after
        self._is_torn = False  # the last line was cut off: the next row must not be glued to it
        self.is_committed = True

    @classmethod
    def open(cls, store: Path | str, after: float = 0.0) -> Ledger:
        """A new segment `<store>/ledger/<utc>-<host>-<pid>-<random>.jsonl`.

        Args:
            store: The sweep's folder.
            after: Time of the last row that this driver has read (`History.last_time`); its own
                bear later ones, also where the clock was set back.

        Raises:
            LedgerError: If the store cannot be written.
        """
        folder = Path(store) / FOLDER
        host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = folder / f"{stamp}-{host}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return cls(path, path.open("xb", buffering=0), after)
        except OSError as error:
            raise LedgerError(f"store={store}: cannot write {path}: {error.strerror}") from error

    def append(self, row: LedgerRow) -> None:
        """Adds one row, which the disk surely has after `commit`; NaN and infinities become null.

        A row without a time of its own bears the present one.

        Raises:
            LedgerError: If the disk is full or the folder can no longer be written.
            ValueError: If an end has an unknown status, or the row a value outside JSON.
        """
        if isinstance(row, EndRow) and row.status not in STATUSES:
            raise ValueError(f"status of an end is {row.status!r}; it must be one of {STATUSES}")
        now = row.time or datetime.now(UTC).timestamp()
        self._last_time = max(now, math.nextafter(self._last_time, math.inf))
        stamped = replace(row, time=self._last_time).to_json()
        line = json.dumps(_finite(stamped), allow_nan=False, separators=(",", ":"))
        before = "\n" if self._is_torn else ""
        data = memoryview(f"{before}{line}\n".encode())
        self._is_torn, self.is_committed = True, False
        try:
            while data:  # a full disk takes a part first
                data = data[self._file.write(data) :]
        except OSError as error:
            raise LedgerError(f"cannot append to {self.path}: {error.strerror}") from error
        self._is_torn = False

    def commit(self) -> None:
        """Waits until the disk has every row that was added.

        Raises:
            LedgerError: If the disk does not take them.
        """
        if self.is_committed:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise LedgerError(f"cannot append to {self.path}: {error.strerror}") from error
        self.is_committed = True

    def close(self) -> None:
        """Closes the segment; an empty one is removed."""
        self._file.close()
        if self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def read(store: Path | str, *, without: Path | None = None) -> History:
        """The merged history of all segments of `store`, by time; empty if there is none.

        Args:
            store: The sweep's folder.
            without: A segment that is left out.

        Raises:
            LedgerError: If a segment cannot be read, or the store is a file.
        """
        if Path(store).is_file():
            raise LedgerError(f"store={store}: is a file; a store is a folder")
        rows: list[LedgerRow] = []
        damaged: list[str] = []
        shared = Shared()
        for path in _segments(store, without):
            try:
                good, bad = _read(path, shared)
            except OSError as error:
                raise LedgerError(f"store={store}: cannot read {path}: {error.strerror}") from error
            except NewerSchemaError as error:
                raise LedgerError(
                    f"store={store}: {path} holds rows of schema {error.schema}, this version reads"
                    f" up to {SCHEMA}: a newer one wrote them and reads them; nothing was changed"
                ) from error
            rows += good
            damaged += [f"{path.name}:{line}" for line in bad]
        rows.sort(key=lambda row: row.time)  # stable: rows of one instant keep their order
        last_time = float(rows[-1].time) if rows else 0.0
        history = History(damaged=tuple(damaged), last_time=last_time)
        for row in rows:
            if isinstance(row, EndRow):
                history.ends[row.fingerprint] = row
            else:
                history.checkpoints.setdefault(row.fingerprint, []).append(row)
        return history


def check_store(store: Path | str) -> None:
    """Checks that a store is there, for what only reads it.

    Raises:
        LedgerError: If there is no such folder.
    """
    if not os.path.exists(store):
        raise LedgerError(f"store={store}: no such folder; run a sweep with this store")


class Others:
    """The rows that other drivers have written into a store, read again only if they have grown.

    A driver knows its own rows. Reading those as well, once for every few hundred trials, would
    take twice the memory of all of them.
    """

    def __init__(self, store: Path | str, own: Path) -> None:
        """Nothing is read; `own` is the segment that is left out."""
        self._store = store
        self._own = own
        self._sizes: dict[Path, int] | None = None  # of the segments that `_history` holds
        self._history = History()

    def read(self) -> History:
        """The merged history of the other segments; the same object if nothing is new.

        Raises:
            LedgerError: If a segment cannot be read.
        """
        sizes = {path: _size(path) for path in _segments(self._store, self._own)}
        if sizes != self._sizes:
            self._history = History()  # one at a time
            self._history = Ledger.read(self._store, without=self._own)
            self._sizes = sizes
        return self._history


def _segments(store: Path | str, without: Path | None) -> list[Path]:
    return [path for path in sorted((Path(store) / FOLDER).glob("*.jsonl")) if path != without]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # an empty segment that its driver has just removed
        return 0


def _read(path: Path, shared: Shared) -> tuple[list[LedgerRow], list[int]]:
    """The rows of a segment, and the numbers of unreadable lines; a torn last line is left out."""
    rows: list[LedgerRow] = []
    bad: list[int] = []
    num_before = 0
    with path.open("rb") as file:
        while block := list(islice(file, _BLOCK)):
            if not block[-1].endswith(b"\n"):
                block.pop()
            for number, values in enumerate(_parsed(block), start=num_before + 1):
                row = None if values is _NO_JSON else read_row(values, shared)
                if row is not None:
                    rows.append(row)
                elif values is not None:
                    bad.append(number)
            num_before += len(block)
    return rows, bad


def _parsed(lines: Sequence[bytes]) -> list[Any]:
    """What each line holds as JSON, `_NO_JSON` where that is nothing, None where it is empty.

    Together, so that they share the keys of their objects, which are half of what they take.
    """
    try:
        together = json.loads(b"[%b]" % b",".join(lines))
    except ValueError:
        together = []
    if len(together) == len(lines) and all(isinstance(each, dict) for each in together):
        return list(together)
    return [_parsed_alone(line) for line in lines]


def _parsed_alone(line: bytes) -> Any:
    if not line.strip():
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return _NO_JSON
    return _NO_JSON if found is None else found


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
