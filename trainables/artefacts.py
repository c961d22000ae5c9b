"""Content-addressed store of what trials share: covariances, pre-edit answers, hypernetworks.

A value is named by the SHA-256 of all its inputs, built once, written aside and renamed, and
checked by hash on reading. Tensors are stored as safetensors and the rest as JSON: nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from cachetools import LRUCache
from filelock import FileLock
from safetensors.torch import load, save

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.interfaces import Json, State
from trainables.moe import nltk_data
from trainables.states import snapshot

T = TypeVar("T")
_DRAFT = ".draft"  # of a file that holds what is done of an artefact so far
_ASIDE = ".tmp"  # of a folder that is not whole yet


def key_of(kind: str, inputs: Mapping[str, Json]) -> str:
    """Name of an artefact: its kind and the SHA-256 of its inputs as canonical JSON."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


class Artefacts:
    """A folder of artefacts with a byte budget, and what this process holds of them."""

    def __init__(
        self, root: Path, *, max_gib: float = 10.0, host_gib: float = 4.0, prefix_gib: float = 2.0
    ) -> None:
        """Make the folder, if need be.

        Args:
            root: The folder.
            max_gib: Most that lies there, 2**30 bytes; the least recently used goes first.
            host_gib: Most of it that this process holds in host memory.
            prefix_gib: Most hidden states that it holds, where its backbone lies.
        """
        self._root = root
        self._max_bytes = int(max_gib * 2**30)
        self._loaded: LRUCache[str, State] = LRUCache(host_gib * 2**30, getsizeof=_num_bytes)
        self._kept: dict[str, object] = {}
        self.prefix_cache = PrefixCache(prefix_gib)
        root.mkdir(parents=True, exist_ok=True)

    def get(self, kind: str, inputs: Mapping[str, Json], build: Callable[[], State]) -> State:
        """The artefact of `inputs`, built on first use.

        Two processes that ask at once build it once: the second waits for the first. A stored file
        whose hash is wrong is built anew. The tensors lie in host memory whether they were built or
        read, and callers must not write to them.
        """
        key = key_of(kind, inputs)
        if (held := self._loaded.get(key)) is not None:
            return held
        folder = self._root / key
        state = self._read(folder)
        if state is None:
            with FileLock(self._root / f"{key}.lock"):
                state = self._read(folder)
                if state is None:
                    state = snapshot(build())
                    self._write(folder, state, inputs)
                    self.draft(kind, inputs).unlink(missing_ok=True)
                    self._drop_oldest(keep=folder)
        if _num_bytes(state) <= self._loaded.maxsize:
            self._loaded[key] = state
        return state

    def find(self, kind: str, inputs: Mapping[str, Json]) -> State | None:
        """The artefact of `inputs` if it was built before; None if not."""
        return self._read(self._root / key_of(kind, inputs))

    def draft(self, kind: str, inputs: Mapping[str, Json]) -> Path:
        """Where whoever builds the artefact of `inputs` may keep what is done of it so far.

        It counts towards the budget, and may be dropped as artefacts are; `get` removes it once
        the artefact is whole. `build` alone may write there: no other process does meanwhile.
        """
        return self._root / f"{key_of(kind, inputs)}{_DRAFT}"

    def free(self) -> None:
        """Forget in this process all that can be computed or read again."""
        self._loaded.clear()
        self.prefix_cache.clear()

    @property
    def cache(self) -> Path:
        """Folder of embedded backbones, packages and artefacts; `default_cache` on one machine."""
        return self._root.parent

    @property
    def nltk_data(self) -> Path:
        """Folder where `make nltk` puts NLTK's data; it may not exist."""
        return self.cache / nltk_data.FOLDER

    def keep(self, name: str, build: Callable[[], T]) -> T:
        """The tool that `build` returns, loaded once in this process because loading is slow.

        Its answers must not depend on earlier use, or one trial would change the next.
        """
        if name not in self._kept:
            self._kept[name] = build()
        return cast(T, self._kept[name])

    def _read(self, folder: Path) -> State | None:
        try:
            blob = (folder / "tensors.safetensors").read_bytes()
            meta = json.loads((folder / "meta.json").read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(meta, dict) or meta.get("sha256") != _digest(blob, meta.get("values")):
            return None
        with suppress(OSError):  # dropped meanwhile, or a folder of another user's
            os.utime(folder / "meta.json")
        return State(load(blob), meta["values"])

    def _write(self, folder: Path, state: State, inputs: Mapping[str, Json]) -> None:
        aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{_ASIDE}")
        aside.mkdir()
        blob = save(state.tensors)
        (aside / "tensors.safetensors").write_bytes(blob)
        meta = {
            "sha256": _digest(blob, state.values),
            "inputs": dict(inputs),
            "values": state.values,
            "written": time.time(),
        }
        (aside / "meta.json").write_text(json.dumps(meta))
        if folder.exists():  # broken, or it would have been read
            shutil.rmtree(folder)
        aside.rename(folder)

    def _stored(self) -> list[tuple[float, int, Path]]:
        """Last use, bytes and place of what lies there, the least recently used first.

        What another process writes at the moment or drops meanwhile is left out.
        """
        found = []
        for path in (*self._root.glob("*/meta.json"), *self._root.glob(f"*{_DRAFT}")):
            whole = path if path.suffix == _DRAFT else path.parent
            if whole.suffix == _ASIDE:
                continue
            with suppress(FileNotFoundError):
                parts = [path] if whole == path else list(whole.iterdir())
                size = sum(part.stat().st_size for part in parts)
                found.append((path.stat().st_mtime, size, whole))
        return sorted(found)

    def _drop_oldest(self, keep: Path) -> None:
        stored = self._stored()
        total = sum(size for _, size, _ in stored)
        for _, size, whole in stored:
            if total <= self._max_bytes:
                break
            if whole.suffix == _DRAFT:
                whole.unlink(missing_ok=True)
                total -= size
            elif whole != keep:
                shutil.rmtree(whole, ignore_errors=True)
                total -= size


def _num_bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.tensors.values())


def _digest(blob: bytes, values: object) -> str:
    """SHA-256 of tensors and values of an artefact: pre-edit answers have values alone."""
    return hashlib.sha256(blob + json.dumps(values, sort_keys=True).encode()).hexdigest()
