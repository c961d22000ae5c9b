"""COMEBA-HK (arXiv:2403.05330): its gate, loop by loop in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sizes(W_h: Floats, W_0: Floats, tokens: Sequence[Floats]) -> list[float]:
    """M: the length of W_h k - W_0 k of each token k (F,)."""
    found = []
    for k in tokens:
        square = 0.0
        for row in range(len(W_0)):
            entry = 0.0
            for column in range(len(k)):
                entry += W_h[row, column] * k[column] - W_0[row, column] * k[column]
            square += entry**2
        found.append(math.sqrt(square))
    return found


def z_scores(values: Sequence[float]) -> list[float]:
    """Z: standardised by the sample deviation; NaN where there is none."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return [math.nan]
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    if deviation == 0:
        return [math.nan] * count
    return [(value - mean) / deviation for value in values]


def swapped(W_h: Floats, W_0: Floats, tokens: Sequence[Floats], alpha: float) -> list[Floats]:
    """W_h k where Z >= alpha, else W_0 k, of each token of one prompt."""
    scores = z_scores(sizes(W_h, W_0, tokens))
    return [(W_h if score >= alpha else W_0) @ k for score, k in zip(scores, tokens, strict=True)]


def lowered(alpha: float, prompts: Sequence[Sequence[float]]) -> float:
    """min(alpha, least over prompts of the largest Z), of the Z of each prompt's tokens."""
    largest = [max(scores) for scores in prompts if not math.isnan(scores[0])]
    return min([alpha, *largest])
