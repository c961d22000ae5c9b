"""Reads values that need no grammar: names, paths, numbers, and flat lists of them.

Hydra's grammar reads all that may be typed, but takes an eighth of a second to import: a sixth of a
dry run. What is read here is what hydra reads, which a test compares; all else is left to it.
"""

from __future__ import annotations

import re
from typing import Any

_WORD = re.compile(r"[A-Za-z_/][\w./]*", re.ASCII)
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,17}([eE]-?[0-9]{1,2})?|[eE]-?[0-9]{1,2})")
_NOT_WORDS = frozenset({"null", "true", "false", "nan", "inf"})


class NotSimpleError(ValueError):
    """A value that needs hydra's grammar."""


def simple_value(typed: str) -> Any:
    """The value of `typed`.

    Raises:
        NotSimpleError: If it may be more than a name, a path, a number, or a list of them.
    """
    if typed.startswith("[") and typed.endswith("]") and len(typed) > 2:
        return [_single(item) for item in typed[1:-1].split(",")]
    return _single(typed)


def _single(typed: str) -> str | int | float:
    if _WHOLE.fullmatch(typed):
        return int(typed)
    if _FLOAT.fullmatch(typed):
        return float(typed)
    if _WORD.fullmatch(typed) and typed.lower() not in _NOT_WORDS:
        return typed
    raise NotSimpleError
