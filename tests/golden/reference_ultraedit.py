"""UltraEdit (arXiv:2505.14679), token by token in float64, by the equations of its public code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .reference_memit import Matrix


def normalised(rows: Sequence[Matrix], seen: Sequence[Matrix]) -> Matrix:
    """(x - mean) / standard deviation of each of `rows`, over all rows that were `seen` so far."""
    found = np.zeros((len(rows), len(rows[0])))
    for j in range(len(rows[0])):
        column = [row[j] for row in seen]
        mean = sum(column) / len(column)
        deviation = np.sqrt(sum((value - mean) ** 2 for value in column) / (len(column) - 1))
        for i, row in enumerate(rows):
            found[i, j] = (row[j] - mean) / deviation
    return found


def shift(
    keys: Sequence[Matrix],
    gradients: Sequence[Matrix],
    seen: Sequence[Matrix],
    edit_lr: float,
    l2_weight: float,
) -> Matrix:
    """(H^T H + l2 I)^-1 H^T V, (in, out), with v = -edit_lr |h^|^2 g^; `seen`: rows of [H|G]."""
    size = len(keys[0])
    hats = normalised([np.concatenate(pair) for pair in zip(keys, gradients, strict=True)], seen)
    system, cross = l2_weight * np.eye(size), np.zeros((size, len(gradients[0])))
    for key, hat in zip(keys, hats, strict=True):
        key_hat, gradient_hat = hat[:size], hat[size:]
        value = -edit_lr * float((key_hat**2).sum()) * gradient_hat
        system += np.outer(key, key)
        cross += np.outer(key, value)
    return np.linalg.inv(system) @ cross
