"""AlphaEdit's closed form (arXiv:2410.02355), in float64 as its public code writes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .reference_memit import Matrix


def projector(moment: Matrix, threshold: float) -> Matrix:
    """P = U U^T, with U the singular vectors of C whose singular value is below the threshold."""
    vectors, values, _ = np.linalg.svd(moment)
    total = np.zeros_like(moment)
    for i, value in enumerate(values):
        if value < threshold:
            total += np.outer(vectors[:, i], vectors[:, i])
    return total


def update(
    keys: Sequence[Matrix],
    residuals: Sequence[Matrix],
    projected: Matrix,
    earlier: Sequence[Matrix],
    l2_weight: float,
) -> Matrix:
    """The transpose of (P (K K^T + C_prev) + l2 I)^-1 P K R^T, (D, F).

    `earlier` are the keys that C_prev is the sum of.
    """
    size = len(keys[0])
    products = np.zeros((size, size))
    for key in (*keys, *earlier):
        products += np.outer(key, key)
    cross = np.zeros((size, len(residuals[0])))
    for key, residual in zip(keys, residuals, strict=True):
        cross += np.outer(key, residual)
    solved: Matrix = np.linalg.inv(projected @ products + l2_weight * np.eye(size))
    change: Matrix = (solved @ projected @ cross).T
    return change
