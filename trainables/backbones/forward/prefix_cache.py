"""Keeps the hidden states that enter a layer, so that trials of a process compute them once."""

from __future__ import annotations

from cachetools import LRUCache
from torch import Tensor


class PrefixCache:
    """Hidden states entering a layer, per prompt, least recently used dropped first.

    Keys name the backbone with its dtype and device, the layer and the row's tokens: all inputs of
    the value.
    """

    def __init__(self, max_gib: float = 2.0) -> None:
        """`max_gib`: most that is kept, 2**30 bytes."""
        self._states: LRUCache[tuple[str, int, bytes], Tensor] = LRUCache(
            max_gib * 2**30, getsizeof=lambda states: states.nbytes
        )
        self.hits = 0
        self.misses = 0

    def get(self, key: tuple[str, int, bytes]) -> Tensor | None:
        """The states (row length, D) of `key`, or None."""
        found = self._states.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def find(self, key: tuple[str, int, bytes]) -> Tensor | None:
        """As `get`, for one of several keys that may serve: counted neither as hit nor as miss."""
        return self._states.get(key)

    def put(self, key: tuple[str, int, bytes], states: Tensor) -> None:
        """Store `states` under `key`, if there is room for them at all."""
        if states.nbytes <= self._states.maxsize:
            self._states[key] = states

    def clear(self) -> None:
        """Drop all states."""
        self._states.clear()
