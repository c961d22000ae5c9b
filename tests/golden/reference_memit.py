"""MEMIT (arXiv:2210.07229) and its vector step (arXiv:2202.05262), loop by loop in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def second_moment(keys: Sequence[Matrix]) -> Matrix:
    """Mean outer product of vectors (F,)."""
    size = len(keys[0])
    total = np.zeros((size, size))
    for key in keys:
        for i in range(size):
            total[i] += key[i] * key
    return total / len(keys)


def update(keys: Sequence[Matrix], residuals: Sequence[Matrix], old: Matrix) -> Matrix:
    """R K^T (C0 + K K^T)^-1, (D, F), as the paper writes it; one key and residual per edit."""
    system = old.copy()
    cross = np.zeros((len(residuals[0]), len(keys[0])))
    for key, residual in zip(keys, residuals, strict=True):
        system += np.outer(key, key)
        cross += np.outer(residual, key)
    return cross @ np.linalg.inv(system)


def log_softmax(logits: Matrix) -> Matrix:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def divergence(now: Matrix, before: Matrix) -> float:
    """D_KL(P_now[x | p'] || P_before[x | p']), ROME's term against essence drift; logits (V,)."""
    total = 0.0
    for p, q in zip(log_softmax(now), log_softmax(before), strict=True):
        total += float(np.exp(p) * (p - q))
    return total


def edit_loss(
    target_logits: Sequence[Sequence[Matrix]],
    targets: Sequence[int],
    drift: tuple[Matrix, Matrix] | None,
    delta: Matrix,
    base: Matrix,
    kl_weight: float,
    v_weight_decay: float,
) -> float:
    """Loss of one vector.

    `target_logits[c][t]` predicts `targets[t]` in context c; `drift` holds the logits of one token
    of "{subject} is a" now and before.
    """
    total = 0.0
    for of_context in target_logits:
        losses = [-log_softmax(x)[t] for x, t in zip(of_context, targets, strict=True)]
        total += sum(losses) / len(losses)
    total /= len(target_logits)
    if drift is not None:
        total += kl_weight * divergence(*drift)
    norm = float(np.sqrt((delta**2).sum()))
    return total + v_weight_decay * norm / float((base**2).sum())
