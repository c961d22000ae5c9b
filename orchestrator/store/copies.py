"""Copies of a store's results on object storage, from which another store can go on.

A store is a folder: the ledger is appended to, leases are renamed, drivers take locks, and object
storage can do none of that. What a driver has ended is copied there instead: its segment of the
ledger when it closes, and from time to time before, behind the records and packages that its rows
name. A segment only grows, so that of two of one name the longer is the later; records and packages
bear the hash of what they hold. Leases are not copied: two stores that share copies know each
other's results, not what the other is about to run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.redaction import redacted
from orchestrator.store.leases import Leases
from orchestrator.store.ledger import FOLDER as SEGMENTS
from orchestrator.threads import uninterrupted

SEND_SECONDS = 600.0
_AT_A_TIME = 16  # a small file takes as long as the network's way there and back
_CHUNK = 2**20  # bytes
# What is copied; nothing else in either place is looked at. Segments come last: a row must not name
# a file that is not there.
_HASHED = {
    "records": re.compile(r"[0-9a-f]{32}\.jsonl"),
    "packages": re.compile(r"[0-9a-f]{16}\.txt"),
}
_SEGMENT = re.compile(r"\d{8}T\d{6}Z-[A-Za-z0-9._]+-\d+-[0-9a-f]{8}\.jsonl")


class Copies:
    """The copies at one address, and the store that they are made from."""

    def __init__(self, store: Path, address: str) -> None:
        """Nothing is read or written.

        Args:
            store: The sweep's folder.
            address: An address as `addresses.object_storage` returns it.

        Raises:
            UsageError: If the address cannot be used.
        """
        from pyarrow import fs  # a quarter of a second

        self._store, self._address = store, address
        with self._complaining():
            self._system, root = fs.FileSystem.from_uri(address)
            self._root = root.rstrip("/")
        self._leases = Leases(store / SEGMENTS / "copies.jsonl")  # only to look at the others'
        self._own: Path | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def fetch(self) -> int:
        """Copy files that the store lacks from the address; returns their number.

        A file whose content does not match its name is not copied.

        Raises:
            UsageError: If the address cannot be read, or the store not be written.
        """
        num_fetched = 0
        with self._complaining():
            busy = self._busy()
            # Segments first: what their rows name is there by now.
            segments = self._sizes_at_address(SEGMENTS)
            for folder in (*_HASHED, SEGMENTS):
                there = segments if folder == SEGMENTS else self._sizes_at_address(folder)
                missing = _missing(there, self._sizes_in_store(folder), busy)
                num_fetched += _at_a_time(partial(self._fetch, folder), missing)
        return num_fetched

    def send(self) -> int:
        """Copy files that the address lacks, or has shorter, from the store; returns their number.

        Raises:
            UsageError: If the address cannot be written, or the store not be read.
        """
        num_sent = 0
        with self._complaining():
            busy = self._busy()
            segments = self._sizes_in_store(SEGMENTS)  # first, as above
            for folder in (*_HASHED, SEGMENTS):
                here = segments if folder == SEGMENTS else self._sizes_in_store(folder)
                self._system.create_dir(f"{self._root}/{folder}")
                missing = _missing(here, self._sizes_at_address(folder), busy)
                num_sent += _at_a_time(partial(self._send, folder), missing)
        return num_sent

    def begin(self, own: Path) -> None:
        """`send` now, and from time to time in a thread until `close`.

        Args:
            own: The segment that this driver writes.

        Raises:
            UsageError: If the address cannot be written.
        """
        self._own = own
        self.send()
        with uninterrupted():
            self._thread = threading.Thread(target=self._work, name="copies", daemon=True)
            self._thread.start()

    def close(self) -> str:
        """`send` for the last time; returns why that failed, or "" if it did not."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.send()
        except UsageError as error:
            return str(error)
        return ""

    def _work(self) -> None:
        while not self._closing.wait(SEND_SECONDS):
            with contextlib.suppress(UsageError):  # told by `close`, if it still fails then
                self.send()

    def _busy(self) -> Collection[str]:
        """Names, without suffix, of segments that other drivers of this store write and send."""
        own = set() if self._own is None else {self._own.stem}
        return self._leases.drivers() - own

    def _sizes_in_store(self, folder: str) -> dict[str, int]:
        """Bytes of each file of the store that is copied."""
        path = self._store / folder
        if not path.is_dir():
            return {}
        with os.scandir(path) as found:
            return {each.name: each.stat().st_size for each in found if _is_one(folder, each.name)}

    def _sizes_at_address(self, folder: str) -> dict[str, int]:
        """Bytes of each copy at the address."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        found = self._system.get_file_info(selector)
        return {
            each.base_name: each.size
            for each in found
            if each.size and _is_one(folder, each.base_name)
        }

    def _fetch(self, folder: str, name: str, size: int) -> bool:
        path = self._store / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.part")
        try:
            with (
                self._system.open_input_stream(f"{self._root}/{folder}/{name}") as source,
                aside.open("wb") as sink,
            ):
                digest = _copy(source, sink, size)
            is_whole = folder == SEGMENTS or digest.startswith(path.stem)
            if is_whole:
                aside.replace(path)
            return is_whole
        finally:
            aside.unlink(missing_ok=True)

    def _send(self, folder: str, name: str, size: int) -> bool:
        with (
            (self._store / folder / name).open("rb") as source,
            self._system.open_output_stream(f"{self._root}/{folder}/{name}") as sink,
        ):
            _copy(source, sink, size)
        return True

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:  # what pyarrow raises
            reason = " ".join(redacted(str(error)).split())
            raise UsageError(f"copies={self._address}: {reason}") from error


def _missing(
    source: Mapping[str, int], target: Mapping[str, int], busy: Collection[str]
) -> list[tuple[str, int]]:
    """Name and bytes of the files that `target` lacks, or has only the beginning of."""
    return [
        (name, size)
        for name, size in source.items()
        if size > target.get(name, 0) and Path(name).stem not in busy
    ]


def _at_a_time(copy: Callable[[str, int], bool], files: Sequence[tuple[str, int]]) -> int:
    """Copies `files`, several at a time; returns how many. The first error ends it."""
    pool = ThreadPoolExecutor(_AT_A_TIME)
    try:
        return sum(pool.map(lambda file: copy(*file), files))
    finally:
        pool.shutdown(cancel_futures=True)


def _copy(source: Any, sink: Any, size: int) -> str:
    """Copies the first `size` bytes of `source` into `sink`; returns their SHA-256."""
    digest = hashlib.sha256()
    while size and (chunk := source.read(min(size, _CHUNK))):
        sink.write(chunk)
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _is_one(folder: str, name: str) -> bool:
    """Whether a file of this name is copied; its name must not lead into another folder."""
    return _HASHED.get(folder, _SEGMENT).fullmatch(name) is not None
