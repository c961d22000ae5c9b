"""Parses the `key=value` options of the commands of this package; imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence


def parse_options(
    words: Sequence[str], defaults: Mapping[str, str], choices: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The words without `=`, and all options with the defaults filled in.

    Raises:
        ValueError: If a key is not among `defaults`, or a value not among its `choices`.
    """
    options = dict(defaults)
    for key, _, value in (word.partition("=") for word in words if "=" in word):
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown option {key!r}; {hint}known: {', '.join(defaults)}")
        if key in choices and value not in choices[key]:
            raise ValueError(f"{key} is {value!r}; it must be one of {', '.join(choices[key])}")
        options[key] = value
    return tuple(word for word in words if "=" not in word), options
