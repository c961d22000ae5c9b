"""Leases, by which several drivers of one store agree which of them runs which trial.

Each driver writes one file `<store>/ledger/<segment>.lease` beside its segment: the trials it holds
and a counter that it raises. A lease counts while its driver is known to live: on the same machine
its process is looked up, on another the counter must move within `LEASE_SECONDS`. Clocks are never
compared, so one that is wrong or set back frees nothing and holds nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import LedgerError
from orchestrator.threads import uninterrupted

BEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0
_SUFFIX = ".lease"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Another driver, as its lease names it."""

    host: str
    pid: int

    def __str__(self) -> str:
        """For a message."""
        return f"process {self.pid} on {self.host}"


class Leases:
    """The lease of one driver, and its view of the others'."""

    def __init__(self, segment: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Hold nothing yet.

        Args:
            segment: The driver's segment of the ledger; the lease lies beside it.
            monotonic: Seconds since some start.
        """
        self._path = segment.with_suffix(_SUFFIX)
        from filelock import FileLock  # heavy: asyncio

        self._lock = FileLock(segment.parent / "leases.lock")
        self._monotonic = monotonic
        self._held: set[str] = set()
        self._beats = 0
        self._writing = threading.Lock()
        self._seen: dict[str, tuple[int, float]] = {}  # counter of each other lease, since when
        self._is_closed = threading.Event()
        self._heart: threading.Thread | None = None

    def claim(self, keys: Iterable[str], most: int, settled: Callable[[], set[str]]) -> list[str]:
        """Takes the first `most` of `keys` that no living driver holds, and returns them.

        Args:
            keys: Fingerprints of trials.
            most: How many to take at most.
            settled: Returns trials that have ended meanwhile; called while no other driver can
                claim, and after the leases were read: a driver may release what it has ended
                at any time, so that the ledger must be the later of the two.

        Raises:
            LedgerError: If the lease cannot be written.
        """
        with self._lock:
            held = set(self.others())  # first: what is released after this, `settled` tells
            taken = held | settled()
            claimed = [key for key in keys if key not in taken][:most]
            self._held.update(claimed)
            self.beat()
        if self._heart is None:
            with uninterrupted():
                self._heart = threading.Thread(target=self._beat_on, daemon=True)
                self._heart.start()
        return claimed

    def release(self, keys: Iterable[str]) -> None:
        """Give trials back, ended or not."""
        self._held.difference_update(keys)
        self.beat()

    def others(self) -> Mapping[str, Holder]:
        """The trials that other living drivers hold, each with its holder."""
        held: dict[str, Holder] = {}
        for _, lease in self._living():
            held |= dict.fromkeys(lease["trials"], Holder(lease["host"], lease["pid"]))
        return held

    def drivers(self) -> frozenset[str]:
        """Names of the segments, without their suffix, of all living drivers, this one included."""
        return frozenset({self._path.stem, *(path.stem for path, _ in self._living())})

    def beat(self) -> None:
        """Write the lease with its counter raised.

        Raises:
            LedgerError: If it cannot be written.
        """
        with self._writing:
            self._beats += 1
            lease = {
                "host": socket.gethostname(),
                "processes": _process_table(),
                "pid": os.getpid(),
                "started": psutil.Process().create_time(),
                "beats": self._beats,
                "trials": sorted(self._held),
            }
            aside = self._path.with_suffix(".part")
            try:
                aside.write_text(json.dumps(lease))
                aside.replace(self._path)
            except OSError as error:
                raise LedgerError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Give everything back."""
        self._is_closed.set()
        if self._heart is not None:
            self._heart.join()
        self._path.unlink(missing_ok=True)

    def _beat_on(self) -> None:
        while not self._is_closed.wait(BEAT_SECONDS):
            try:
                self.beat()
            except LedgerError:
                continue  # a full disk ends the sweep where a result is lost, not here

    def _living(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """The leases of other living drivers."""
        for path in sorted(self._path.parent.glob(f"*{_SUFFIX}")):
            lease = _read(path)
            if path != self._path and lease is not None and self._is_alive(path.name, lease):
                yield path, lease

    def _is_alive(self, name: str, lease: Mapping[str, Any]) -> bool:
        if lease["processes"] == _process_table():
            try:
                # A process number is used again one day; the time of its start is not.
                return bool(psutil.Process(lease["pid"]).create_time() == lease["started"])
            except psutil.NoSuchProcess:
                return False
        now = self._monotonic()
        beats, since = self._seen.get(name, (-1, now))
        if lease["beats"] != beats:
            since = now
        self._seen[name] = (lease["beats"], since)
        return now - since < LEASE_SECONDS


def _process_table() -> str:
    """Name of the machine, or container on it, in which a process number is unique.

    Machines may share a host name, and the first space of process numbers is called alike on all;
    the id of the last start of a machine is its own. What a version without it wrote here reads
    like a lease from elsewhere: its counter says whether its driver lives.
    """
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        space = ""
    try:
        boot = f" {_BOOT_ID.read_text().strip()}"
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {space}{boot}"


def _read(path: Path) -> dict[str, Any] | None:
    """A lease; None for one that is gone meanwhile or cannot be read."""
    try:
        lease = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    keys = ("host", "processes", "pid", "started", "beats", "trials")
    return lease if isinstance(lease, dict) and all(key in lease for key in keys) else None


def summary(holders: Sequence[Holder]) -> list[str]:
    """One line per driver with the number of trials that it holds."""
    return [
        f"{holders.count(holder)} trials are held by {holder}" for holder in dict.fromkeys(holders)
    ]
