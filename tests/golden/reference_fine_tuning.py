"""LoRA (arXiv:2106.09685) and EWC (arXiv:1612.00796), loop by loop in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def low_rank(W: Floats, A: Floats, B: Floats, x: Floats, alpha: float) -> Floats:
    """LoRA: h = W_0 x + (alpha / r) B A x, one token (in,)."""
    rank = len(A)
    narrow = [sum(A[r, j] * x[j] for j in range(len(x))) for r in range(rank)]
    h = np.zeros(len(W))
    for i in range(len(W)):
        h[i] = sum(W[i, j] * x[j] for j in range(len(x)))
        h[i] += alpha / rank * sum(B[i, r] * narrow[r] for r in range(rank))
    return h


def importance(gradients: Sequence[Floats]) -> Floats:
    """F: mean over edits of each entry's squared gradient."""
    total = np.zeros_like(gradients[0])
    for gradient in gradients:
        for place in np.ndindex(*gradient.shape):
            total[place] += gradient[place] ** 2
    return total / len(gradients)


def penalty(W: Floats, anchor: Floats, F: Floats) -> float:
    """EWC, without the factor before it: sum_i F_i (theta_i - theta*_i)^2."""
    return float(sum(F[p] * (W[p] - anchor[p]) ** 2 for p in np.ndindex(*W.shape)))


def penalty_gradient(W: Floats, anchor: Floats, F: Floats) -> Floats:
    """Of `penalty` by W."""
    found = np.zeros_like(W)
    for place in np.ndindex(*W.shape):
        found[place] = 2 * F[place] * (W[place] - anchor[place])
    return found


class Adam:
    """Adam (arXiv:1412.6980) on one array."""

    def __init__(self, rate: float) -> None:
        self._rate, self._step = rate, 0
        self._mean: Floats | float = 0.0
        self._square: Floats | float = 0.0

    def change(self, gradient: Floats) -> Floats:
        """What one step adds."""
        self._step += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean = self._mean / (1 - 0.9**self._step)
        square = self._square / (1 - 0.999**self._step)
        return -self._rate * mean / (np.sqrt(square) + 1e-8)
