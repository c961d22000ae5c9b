"""Which expert a prompt was sent to, of the experts of its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def majority_expert(experts: Sequence[int]) -> int:
    """The expert of most tokens; if several have as many, the one with the lowest number."""
    counts = Counter(experts)
    return min(counts, key=lambda expert: (-counts[expert], expert))
