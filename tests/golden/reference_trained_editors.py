"""MEND (arXiv:2110.11309) and MALMEN (arXiv:2311.04661), loop by loop in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """U (Z, R), V (R, Z), b, s and o (Z,) of one residual block."""

    U: Floats
    V: Floats
    b: Floats
    s: Floats
    o: Floats


def product(matrix: Floats, vector: Floats) -> Floats:
    return np.array([sum(a * x for a, x in zip(row, vector, strict=True)) for row in matrix])


def mend_block(block: Block, z: Floats) -> Floats:
    """Of one row: h = z + sigma(s * (U V z + b) + o), sigma being ReLU."""
    inner = product(block.U, product(block.V, z))
    return np.array(
        [z[i] + max(0.0, block.s[i] * (inner[i] + block.b[i]) + block.o[i]) for i in range(len(z))]
    )


def malmen_block(block: Block, z: Floats) -> Floats:
    """Of one row: h = z + s * sigma(U V z + b) + o."""
    inner = product(block.U, product(block.V, z))
    return np.array(
        [z[i] + block.s[i] * max(0.0, inner[i] + block.b[i]) + block.o[i] for i in range(len(z))]
    )


def normalised(rows: Sequence[Floats]) -> list[Floats]:
    """Each row less the mean, over the sample deviation."""
    count, size = len(rows), len(rows[0])
    mean = [sum(row[i] for row in rows) / count for i in range(size)]
    square = [sum((row[i] - mean[i]) ** 2 for row in rows) / (count - 1) for i in range(size)]
    return [np.array([(r[i] - mean[i]) / square[i] ** 0.5 for i in range(size)]) for r in rows]


def mend_change(alpha: float, keys: Sequence[Floats], deltas: Sequence[Floats]) -> Floats:
    """-alpha sum over tokens of delta~ k~^T, (out, in)."""
    found = np.zeros((len(deltas[0]), len(keys[0])))
    for key, delta in zip(keys, deltas, strict=True):
        for i in range(len(delta)):
            for j in range(len(key)):
                found[i, j] -= alpha * delta[i] * key[j]
    return found


def malmen_change(
    eta: float,
    ridge: float,
    keys: Sequence[Floats],
    pseudo_keys: Sequence[Floats],
    pseudo_deltas: Sequence[Floats],
) -> Floats:
    """Least squares: S minimises sum |S k - d|^2 + e^ridge |S|^2, d = -eta (k . k~) g~; (out, in).

    As a plain least-squares problem, with e^(ridge / 2) I below the keys and 0 below the d.
    """
    wanted = [
        -eta * float(sum(a * b for a, b in zip(key, pseudo, strict=True))) * delta
        for key, pseudo, delta in zip(keys, pseudo_keys, pseudo_deltas, strict=True)
    ]
    size, out = len(keys[0]), len(wanted[0])
    left = np.vstack([np.array(keys), np.exp(ridge / 2) * np.eye(size)])
    right = np.vstack([np.array(wanted), np.zeros((size, out))])
    solution: Floats = np.linalg.lstsq(left, right, rcond=None)[0]
    return solution.T
