"""Copies states to host memory and stores them, beside the work that goes on.

A method's `state()` names its live tensors. Whoever keeps a state takes a `snapshot` first: tensor
by tensor into host memory, so that a GPU never holds anything twice.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables.interfaces import State


def snapshot(state: State) -> State:
    """A copy of `state` in host memory, which nobody writes to any more."""
    tensors = {name: _on_host(tensor) for name, tensor in state.tensors.items()}
    return State(tensors, copy.deepcopy(state.values))  # a method may name its live lists


def write_whole(path: Path, content: bytes) -> None:
    """Store `content` aside and rename it; where that fails, nothing of it is left."""
    _write_aside(path, lambda aside: aside.write_bytes(content))


def write_state(path: Path, state: State) -> None:
    """Store `state` in one safetensors file, written aside and renamed, with its SHA-256.

    Raises:
        OSError: If it cannot be stored, as where the disk is full.
    """
    tensors = _apart(state.tensors)
    values = json.dumps(state.values)
    told = {"values": values, "sha256": _digest(tensors, values)}
    try:
        _write_aside(path, lambda aside: save_file(tensors, aside, metadata=told))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # all that is left of the system's error
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def read_state(path: Path) -> State | None:
    """What `write_state` stored; None when there is nothing, or it is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata()
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            if told["sha256"] != _digest(tensors, told["values"]):
                return None
            return State(tensors, json.loads(told["values"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


class StateWriter:
    """Stores one state at a time in a thread of its own; the last whole file stays until then."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.seconds = 0.0  # that the last state took to be written

    @property
    def is_busy(self) -> bool:
        """Whether a state is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, path: Path, state: State) -> None:
        """Take a snapshot of `state` and begin to store it; waits for the one before.

        Raises:
            OSError: If the one before could not be stored.
        """
        self.wait()
        held = snapshot(state)
        # Not a daemon's: a process that ends in good order ends with its file whole.
        self._thread = threading.Thread(target=self._write, args=(path, held), name="state")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            OSError: If the last state could not be stored; or whatever else went wrong.
        """
        if (error := self.settle()) is not None:
            raise error

    def settle(self) -> Exception | None:
        """As `wait`, but what went wrong is returned."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error

    def _write(self, path: Path, state: State) -> None:
        begin = time.monotonic()
        try:
            write_state(path, state)
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise it to
            self._error = error
        self.seconds = time.monotonic() - begin


def _on_host(tensor: Tensor) -> Tensor:
    # `to` would keep strides, which files do not have.
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All in host memory, none sharing it with another: safetensors refuses that."""
    found: dict[str, Tensor] = {}
    held = set[int]()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in held else own
        held.add(place)
    return found


def _digest(tensors: Mapping[str, Tensor], values: str) -> str:
    """SHA-256 of names, kinds, shapes and bytes of all tensors, and of the values."""
    found = hashlib.sha256(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _write_aside(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(aside)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
