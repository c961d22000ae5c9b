"""GRACE's codebook as plain lists, written from the paper's description (arXiv:2211.11031)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Entry:
    key: tuple[float, ...]
    label: tuple[int, ...]
    radius: float


def distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def nearest(entries: list[Entry], query: tuple[float, ...]) -> tuple[int, float]:
    best, best_distance = -1, math.inf
    for index, entry in enumerate(entries):
        d = distance(entry.key, query)
        if d < best_distance:
            best, best_distance = index, d
    return best, best_distance


def insert(
    entries: list[Entry],
    key: tuple[float, ...],
    label: tuple[int, ...],
    epsilon: float,
    on_equal_key: str,
) -> tuple[str, int]:
    """Change and the entry whose value is trained next."""
    index, d = nearest(entries, key)
    if index < 0 or d > epsilon + entries[index].radius:
        entries.append(Entry(key, label, epsilon))
        return "added", len(entries) - 1
    near = entries[index]
    if near.label == label:
        if d > near.radius:
            near.radius = d
        return "expanded", index
    if d == 0.0 and on_equal_key == "overwrite":
        near.label = label
        return "overwritten", index
    near.radius = d / 2 - 1e-5
    entries.append(Entry(key, label, d / 2))
    return "split", len(entries) - 1


def lookup(entries: list[Entry], query: tuple[float, ...]) -> int:
    """The entry that answers, or -1."""
    index, d = nearest(entries, query)
    return index if index >= 0 and d <= entries[index].radius else -1
