"""Says in one line what is wrong with a configuration: an unknown name, or what pydantic finds."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orchestrator.errors import UsageError
from orchestrator.redaction import redacted

_MOST_NAMES = 30  # of an error message
# pydantic's words for Python's types, said in YAML's
_PLAINER = {
    "tuple_type": "must be a list, [...]",
    "list_type": "must be a list, [...]",
    "dict_type": "must be a mapping, {key: value}",
    "model_type": "must be a mapping, {key: value}",
    "string_type": "must be a word",
    "bool_type": "must be true or false",
}


def complaint(
    error: ValidationError,
    whole: type[BaseModel],
    further: Collection[str],
    hidden: Collection[str],
) -> UsageError:
    """The first complaint as one line, with the key as typed, and its value without secrets.

    Args:
        error: The error of pydantic.
        whole: The model that was built.
        further: Keys that are allowed besides its fields.
        hidden: Its fields that nobody may set.
    """
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    path = ".".join(location)
    if first["type"] == "extra_forbidden":
        model = whole
        for part in location[:-1]:
            kind = model.model_fields[part].annotation
            inner = [each for each in (kind, *get_args(kind)) if _is_model(each)]
            model = inner[0] if inner else model
        known = set(model.model_fields) - set(hidden) | (set(further) if model is whole else set())
        return unknown(path, location[-1], known)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _PLAINER:
        message = _PLAINER[first["type"]]
    typed = redacted(str(first["input"]))
    return UsageError(f"{path}={typed}: {message[:1].lower()}{message[1:]}")


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def unknown(typed: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for an unknown name: what was typed, the nearest name, all names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    listed = ", ".join(names[:_MOST_NAMES]) or "none"
    return UsageError(f"{typed}: no such name; {guess}known: {listed}{more}")
