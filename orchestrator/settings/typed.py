"""Reads the words typed behind `sweep.py` by hydra's grammar; each key is known, none is twice."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.redaction import redacted
from orchestrator.settings.complaints import unknown
from orchestrator.settings.composition import plain
from orchestrator.settings.simple_values import NotSimpleError, simple_value
from orchestrator.settings.yaml_files import GROUPS, SearchSpaces

# Of a first word, the words that may follow behind a dot; None: others check them.
Known = Mapping[str, Collection[str] | None]
_OF_THE_FILE = ("arms", "defaults", "question", "scales")
_MERGED = ("protocol", "evaluate", "rerun")  # typed as a mapping they are laid over, key by key
_KEY = re.compile(r"\w+(\.\w+)*", re.ASCII)
_MOST_SHOWN = 160  # characters of a word that cannot be read


def parse(overrides: Sequence[str], known: Known) -> dict[str, Any]:
    """Typed keys with their values.

    Raises:
        UsageError: For a word that is not key=value, a key that is unknown or typed twice.
    """
    parsed: dict[str, Any] = {}
    for text in overrides:
        key, value = _read(text, known)
        for name, each in _parted(key, value):
            if name in parsed:
                twice = f"{name} is typed twice: {parsed[name]} and {each}"
                raise UsageError(redacted(twice))
            _check_key(name, name, known)
            parsed[name] = each
    for key in parsed:
        if f"axes.{key}" in parsed or key in _axes_typed(parsed):
            raise UsageError(f"{key} and axes.{key} are both typed: one value, or several?")
    return parsed


def split(parsed: Mapping[str, Any], spaces: SearchSpaces) -> tuple[dict[str, str], dict[str, Any]]:
    """The choices of groups, and all other keys, apart.

    Raises:
        UsageError: For a name that does not exist.
    """
    chosen: dict[str, str] = {}
    typed: dict[str, Any] = {}
    for key, value in parsed.items():
        if key not in GROUPS:
            typed[key] = value
            continue
        if not isinstance(value, str):
            raise UsageError(
                f"{key}={value}: must be one name; several are swept as axes.{key}=[...], "
                f"keys are set as {key}.KEY=VALUE"
            )
        spaces.load(key, value)
        chosen[key] = value
    return chosen, typed


def _parted(key: str, value: Any) -> list[tuple[str, Any]]:
    """The dotted keys of a mapping that is merged key by key; any other value as it is."""
    if key not in _MERGED or not isinstance(value, dict):
        return [(key, value)]
    if not value:
        raise UsageError(f"{key}={{}}: sets nothing; write {key}.KEY=VALUE")
    return [(f"{key}.{inner}", each) for inner, each in value.items()]


def _read(text: str, known: Known) -> tuple[str, Any]:
    """The key and the value of one word."""
    key, sign, typed = text.partition("=")
    if not sign:
        raise UsageError(f"{text!r} is neither an option nor key=value; see --help")
    shown = ascii(text)[1:-1] if len(text.splitlines()) > 1 else text
    shown = redacted(shown)  # whole: a half address looks like none
    shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
    if key.startswith("~") or "@" in key:
        raise UsageError(f"{shown}: write key=value; a key cannot be removed or moved")
    key = key.lstrip("+")  # hydra's way to add a key
    if key != key.strip():
        raise UsageError(f"{shown}: write key=value without a blank before the =")
    _check_key(key, shown, known)
    if not _KEY.fullmatch(key):
        raise UsageError(f"{shown}: a key is made of letters, digits and _, parted by dots")
    if "${" in typed:
        raise UsageError(f"{shown}: interpolation is not used here; write the value itself")
    try:
        return key, simple_value(typed)
    except NotSimpleError:
        return key, _by_grammar(f"{key}={typed}", shown)


def _by_grammar(text: str, shown: str) -> Any:
    """The value of one word, by hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key = text.partition("=")[0]
    try:
        override = OverridesParser.create().parse_override(text)
    except (HydraException, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise UsageError(
            f"{shown}: cannot be read as key=value; quote a value with special signs: "
            f"'{key}=\"...\"'"
        ) from error
    if override.is_sweep_override():
        raise UsageError(
            f"{shown}: several values are written as a list, {key}=[...], "
            f"and swept as axes.{key}=[...]"
        )
    return plain(override.value())


def _check_key(key: str, shown: str, known: Known) -> None:
    """Raises UsageError unless the key's first word, and where told the second, is known."""
    first, _, rest = key.partition(".")
    if first in _OF_THE_FILE:
        raise UsageError(
            f"{first}: cannot be set on the command line; it belongs to the ablation's file"
        )
    if first not in known:
        raise unknown(shown, first, known)
    if first in GROUPS and rest == "name":
        raise UsageError(f"{key}: the name of a file; choose with {first}=NAME")
    inner = known[first]
    if not rest or inner is None:
        return
    if not inner:
        raise UsageError(f"{key}: {first} is a single value, without keys")
    second, _, third = rest.partition(".")
    if second not in inner:
        raise unknown(key, second, inner)
    if third:
        raise UsageError(f"{key}: {first}.{second} is a single value, without keys")


def _axes_typed(parsed: Mapping[str, Any]) -> Collection[str]:
    axes = parsed.get("axes")
    return axes if isinstance(axes, dict) else ()
