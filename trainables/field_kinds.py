"""Whether a plain value is of the kind that a field of a Config is declared with."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_LARGEST = {int: 2**63, float: 1e300}  # what int64 and float64 hold; nothing means more


def misfit(value: Any, kind: Any) -> str | None:
    """What is allowed, where `value` is not of `kind`; None where it is.

    Args:
        value: As YAML or the command line gives it: a list stands for a tuple.
        kind: bool, int, float, str, None, a Literal, a tuple of one kind, or a union of these; a
            whole number will do for a float, and numbers are finite.
    """
    if _fits(value, kind):
        return None
    if get_origin(kind) is Literal:
        return f"allowed: {', '.join(map(str, get_args(kind)))}"
    return f"it must be {' or '.join(_words(each) for each in _alternatives(kind))}"


def _fits(value: Any, kind: Any) -> bool:
    alternatives = _alternatives(kind)
    if len(alternatives) > 1:
        return any(_fits(value, each) for each in alternatives)
    if get_origin(kind) is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_fits(each, inner) for each in value)
    if kind in (int, float):
        is_number = isinstance(value, int if kind is int else int | float)
        return is_number and not isinstance(value, bool) and abs(value) < _LARGEST[kind]
    return isinstance(value, kind) if isinstance(kind, type) else True


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a list, each {_words(get_args(kind)[0])}"
    named = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}
    return named.get(kind, "null" if kind is NoneType else str(kind))
