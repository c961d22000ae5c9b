"""Says in one line what is wrong with a configuration: an unknown name, or what pydantic finds."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orchestrator.errors import UsageError
from orchestrator.redaction import redacted

_MOST_NAMES = 30  # of an error message
_MOST_SHOWN = 160  # characters of a value
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
    values: Mapping[str, Any],
) -> UsageError:
    """The first complaint as one line, with the key as typed, and its value without secrets.

    Of a list, or a mapping that lacks a key, the whole is named as it was typed, then the place.

    Args:
        error: The error of pydantic.
        whole: The model that was built.
        further: Keys that are allowed besides its fields.
        hidden: Its fields that nobody may set.
        values: What it was built of.
    """
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        model = whole
        for part in location[:-1]:
            kind = model.model_fields[part].annotation
            inner = [each for each in (kind, *get_args(kind)) if _is_model(each)]
            model = inner[0] if inner else model
        known = set(model.model_fields) - set(hidden) | (set(further) if model is whole else set())
        return unknown(".".join(location), location[-1], known)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _PLAINER:
        message = _PLAINER[first["type"]]
    message = f"{message[:1].lower()}{message[1:]}"
    path, typed = _written(first["loc"], values)
    if first["type"] == "missing":
        message = f"{location[-1]}: {message}"
    elif first["input"] != typed:
        message = f"{_shown(first['input'])}: {message}"
    return UsageError(f"{path}={_shown(typed)}: {message}" if path else message)


def _written(location: Iterable[Any], values: Mapping[str, Any]) -> tuple[str, Any]:
    """The key under which somebody wrote what stands at `location`, and all that stands there."""
    path: list[str] = []
    found: Any = values
    for part in location:
        is_key = isinstance(found, Mapping) and part in found
        # One of several mappings is told apart by its number; one of several words by itself.
        is_place = isinstance(found, list) and isinstance(part, int)
        if not is_key and not (is_place and isinstance(found[part], Mapping)):
            break
        found = found[part]
        path.append(str(part))
    return ".".join(path), found


def _shown(value: Any) -> str:
    text = redacted(str(value))
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


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
