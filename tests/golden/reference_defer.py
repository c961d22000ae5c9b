"""DEFER (arXiv:2211.11031), loop by loop in float64: a gate g, a second map o, one query q."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Maps:
    """w (F,), b, V (D, F) and c (D,)."""

    w: Floats
    b: float
    V: Floats
    c: Floats


def gate(maps: Maps, q: Floats) -> float:
    """The gate: g = sigmoid(w . q + b)."""
    total = maps.b
    for weight, entry in zip(maps.w, q, strict=True):
        total += weight * entry
    return 1.0 / (1.0 + float(np.exp(-total)))


def second(maps: Maps, q: Floats) -> Floats:
    """The second map: o = V q + c."""
    o = maps.c.copy()
    for row, column in np.ndindex(*maps.V.shape):
        o[row] += maps.V[row, column] * q[column]
    return o


def learning(maps: Maps, q: Floats, ys: Sequence[Floats]) -> list[Floats]:
    """Output while learning: g o + (1 - g) y at each position."""
    g, o = gate(maps, q), second(maps, q)
    return [g * o + (1 - g) * y for y in ys]


def answering(maps: Maps, q: Floats, ys: Sequence[Floats]) -> list[Floats]:
    """Output while answering: o at each position if g >= 1/2, else each y."""
    return [second(maps, q) if gate(maps, q) >= 0.5 else y for y in ys]


def gradients(
    maps: Maps, q: Floats, ys: Sequence[Floats], slopes: Sequence[Floats]
) -> dict[str, Floats]:
    """Of a loss whose gradient at the learning output of each position is in `slopes`."""
    g, o = gate(maps, q), second(maps, q)
    by_opening, by_o = 0.0, np.zeros_like(o)
    for slope, y in zip(slopes, ys, strict=True):
        by_opening += float(slope @ (o - y)) * g * (1 - g)
        by_o += g * slope
    return {
        "gate": by_opening * q,
        "gate_bias": np.array([by_opening]),
        "map": np.outer(by_o, q),
        "map_bias": by_o,
    }
