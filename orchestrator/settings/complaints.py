"""Turns what pydantic finds wrong with a configuration into one line for the user."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ValidationError

from orchestrator.errors import UsageError
from orchestrator.redaction import redacted
from orchestrator.settings.yaml_files import unknown

# pydantic's words for Python's types, said in YAML's
_PLAINER = {
    "tuple_type": "must be a list, [...]",
    "list_type": "must be a list, [...]",
    "dict_type": "must be a mapping, {key: value}",
    "model_type": "must be a mapping, {key: value}",
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
            inner = model.model_fields[part].annotation
            model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else model
        known = set(model.model_fields) - set(hidden) | (set(further) if model is whole else set())
        return unknown(path, location[-1], known)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _PLAINER:
        message = _PLAINER[first["type"]]
    typed = redacted(str(first["input"]))
    return UsageError(f"{path}={typed}: {message[:1].lower()}{message[1:]}")
