"""Similarity of batches, pair by pair: LEMoE, arXiv:2406.20030v1, Eq. 7 and 8."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]


def cosine(left: Vector, right: Vector) -> float:
    """sim(., .) of both equations."""
    product = left_square = right_square = 0.0
    for a, b in zip(left, right, strict=True):
        product += a * b
        left_square += a * a
        right_square += b * b
    return product / (math.sqrt(left_square) * math.sqrt(right_square))


def mean_vector(vectors: Sequence[Vector]) -> list[float]:
    """E_i(e_i): the average semantic vector of a group."""
    total = [0.0] * len(vectors[0])
    for vector in vectors:
        for place, value in enumerate(vector):
            total[place] += value
    return [value / len(vectors) for value in total]


def within_batch_similarity(batch: Sequence[Vector]) -> float:
    """Eq. 7: 2 / (n (n - 1)) times the sum of sim(e_i, e_j) over 1 <= i < j <= n."""
    n = len(batch)
    total = 0.0
    for i in range(1, n + 1):
        for j in range(i + 1, n + 1):
            total += cosine(batch[i - 1], batch[j - 1])
    return 2.0 / (n * (n - 1)) * total


def between_batch_similarity(batches: Sequence[Sequence[Vector]]) -> float:
    """Eq. 8: 2 / (s (s - 1)) times the sum of sim(B_i, B_j) over 1 <= i < j <= s."""
    s = len(batches)
    means = [mean_vector(batch) for batch in batches]
    total = 0.0
    for i in range(1, s + 1):
        for j in range(i + 1, s + 1):
            total += cosine(means[i - 1], means[j - 1])
    return 2.0 / (s * (s - 1)) * total
