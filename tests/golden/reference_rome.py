"""ROME's change of a weight (arXiv:2202.05262, Figure 4), in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .reference_memit import Matrix


def mean_key(keys: Sequence[Matrix]) -> Matrix:
    """k: the mean of the keys (F,) over the contexts, the bare prompt among them."""
    total = np.zeros_like(keys[0])
    for key in keys:
        total += key
    return total / len(keys)


def change(weight: Matrix, moment: Matrix, mean: Matrix, key: Matrix, wanted: Matrix) -> Matrix:
    """Lambda (C^-1 k)^T, (D, F), with Lambda = (v* - W k') / ((C^-1 k)^T k').

    Args:
        weight: W, (D, F).
        moment: C, (F, F).
        mean: k, (F,).
        key: k', (F,); the paper's own form has k here, too.
        wanted: v*, (D,), without the projection's bias.
    """
    direction = np.linalg.inv(moment) @ mean
    scale = 0.0
    for u, k in zip(direction, key, strict=True):
        scale += u * k
    found = np.zeros_like(weight)
    for row in range(len(weight)):
        missing = wanted[row] - sum(w * k for w, k in zip(weight[row], key, strict=True))
        found[row] = missing / scale * direction
    return found
