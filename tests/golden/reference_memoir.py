"""MEMOIR (arXiv:2506.07899), entry by entry in float64, by the equations of its public code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .reference_memit import Matrix


def mask(keys: Sequence[Matrix], centre: Matrix, active: int, permutation: Sequence[int]) -> Matrix:
    """Zeros and ones: the permuted places of the `active` largest entries of the centred mean."""
    pooled = sum(keys) / len(keys) - centre
    order = sorted(range(len(pooled)), key=lambda entry: -abs(pooled[entry]))
    found = np.zeros(len(pooled))
    for entry in order[:active]:
        found[permutation[entry]] = 1.0
    return found


def shared(one: Matrix, other: Matrix) -> float:
    """Share of one mask's columns that the other has, too."""
    return sum(float(a and b) for a, b in zip(one, other, strict=True)) / float(one.sum())


def stepped(memory: Matrix, gradient: Matrix, rate: float, longest: float, decay: float) -> Matrix:
    """SGD on the gradient, shortened to `longest`, with decay of all entries."""
    length = float(np.sqrt((gradient**2).sum()))
    short = gradient * (longest / length if length > longest else 1.0)
    return memory - rate * (short + decay * memory)
