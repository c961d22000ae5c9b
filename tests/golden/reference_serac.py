"""SERAC's rules (arXiv:2206.06520), in float64, one number after another."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]


def similarity(projection: Sequence[Vector], scale: float, one: Vector, other: Vector) -> float:
    """P = exp(-scale |W e - W e'|^2)."""
    total = 0.0
    for row in projection:
        gap = sum(w * (a - b) for w, a, b in zip(row, one, other, strict=True))
        total += gap * gap
    return math.exp(-scale * total)


def scope_loss(
    projection: Sequence[Vector],
    scale: float,
    edits: Sequence[Vector],
    asked: Sequence[Vector],
    unrelated: Sequence[Vector],
) -> float:
    """Mean of -log p inside, and of -log(1 - p) outside: unrelated questions and other edits alike.

    Outside each prompt counts with the edit that it is likeliest to be about.
    """

    def p(one: Vector, other: Vector) -> float:
        return similarity(projection, scale, one, other)

    inside = [-math.log(p(edit, prompt)) for edit, prompt in zip(edits, asked, strict=True)]
    far = [-math.log(1 - max(p(edit, prompt) for edit in edits)) for prompt in unrelated]
    others = [
        -math.log(1 - max(p(edit, prompt) for m, edit in enumerate(edits) if m != n))
        for n, prompt in enumerate(asked)
    ]
    return sum(inside) / len(inside) + (sum(far) / len(far) + sum(others) / len(others)) / 2


def mixture(first: Vector, second: Vector, share: float) -> list[float]:
    """Log of (1 - share) softmax(first) + share softmax(second)."""
    sums = [sum(math.exp(value) for value in logits) for logits in (first, second)]
    return [
        math.log((1 - share) * math.exp(a) / sums[0] + share * math.exp(b) / sums[1])
        for a, b in zip(first, second, strict=True)
    ]
