"""The facts of the made-up world, one edit each; nothing to download."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from trainables.datasets.facts import made_up
from trainables.records import EditRecord

VERSION = made_up.VERSION
TARGET_FIELDS = ("target_new",)
HAS_PASSAGES = False


def records(
    part: Literal["tune", "report", "all"], known: Collection[str] | None = None
) -> tuple[EditRecord, ...]:
    """One record for every editable fact; see `made_up.records`."""
    return made_up.records(made_up.build_world(), part, known)


def digest() -> str:
    """SHA-256 of every fact, phrasing and record."""
    return made_up.digest(made_up.build_world())
