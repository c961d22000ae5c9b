"""Short names by which several stores are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def names_of(stores: Sequence[Path]) -> tuple[str, ...]:
    """The last part of each folder's path, or as many of them as no other folder ends with.

    Args:
        stores: Different folders, such as `/a/results` and `/b/results`.

    Returns:
        A name for each, in their order: `a/results` and `b/results`.
    """
    parts = [store.resolve().parts for store in stores]
    most = max(map(len, parts), default=0)
    ends = [{size: own[-size:] for size in range(1, most + 1)} for own in parts]
    met = Counter(end for own in ends for end in set(own.values()))
    return tuple(
        Path(*next((end for end in own.values() if met[end] == 1), own[most])).as_posix()
        for own in ends
    )
