"""Finds settings of a method that were not swept, and yet differ between its arms.

Such arms were run by commands that set them otherwise, and what lies between their scores may be
due to that alone. Methods may differ from each other, and so may backbones and data sets, for which
settings are chosen; a swept `method.reading` stands for further settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.aggregate import Arm

_READING = "method.reading"


@dataclass(frozen=True)
class Mixed:
    """One setting of one method.

    Attributes:
        key: Such as `method.edit_lr`.
        holders: The arms that have each value, the value as text.
    """

    key: str
    method: str
    holders: Mapping[str, Sequence[Arm]]

    def __str__(self) -> str:
        """The key with its values."""
        return f"{self.key}: {', '.join(self.holders)}"


def mixed_settings(arms: Sequence[Arm]) -> tuple[Mixed, ...]:
    """The settings that differ between arms of one method, on one backbone and data set.

    What one of two arms does not have, or sweeps, is not compared.
    """
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        groups.setdefault(_group(arm), []).append(arm)
    return tuple(
        Mixed(f"method.{name}", group[0].method, _holders(group, name))
        for group in groups.values()
        for name in _differing(group)
    )


def _group(arm: Arm) -> tuple[str, ...]:
    where = (arm.context.get(name, "") for name in ("backbone", "dataset"))
    return arm.method, *where, str(arm.swept.get(_READING, ""))


def _differing(arms: Sequence[Arm]) -> list[str]:
    """Names of the settings that differ, in alphabetical order."""
    seen = dict(arms[0].settings)
    last, differing = arms[0].settings, set[str]()
    for arm in arms:
        if arm.settings == last:  # as nearly all have it in a grid of thousands
            continue
        last = arm.settings
        differing.update(n for n, value in last.items() if seen.setdefault(n, value) != value)
    return sorted(differing)


def _holders(arms: Sequence[Arm], name: str) -> dict[str, list[Arm]]:
    holders: dict[str, list[Arm]] = {}
    for arm in arms:
        if name in arm.settings:
            holders.setdefault(str(arm.settings[name]), []).append(arm)
    return dict(sorted(holders.items()))
