"""Edit methods, one module each, found by file name and imported only when used."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from trainables.errors import ConfigError, UnknownMethodError
from trainables.field_kinds import misfit
from trainables.partial_import import PartialImport

# Keys of a method's YAML that are not settings of the method itself.
NOT_SETTINGS = frozenset({"name", "module", "order", "published_on", "presets", "cost"})


def method_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the method's Config, out of its YAML or of a trial's specification."""
    return {key: value for key, value in values.items() if key not in NOT_SETTINGS}


def known_modules() -> list[str]:
    """Names of all method modules."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_method(name: str) -> tuple[type[Any], type[Any]]:
    """The classes (Config, Method) of `trainables/methods/<name>.py`.

    Raises:
        UnknownMethodError: If there is no such file.
    """
    _check_name(name)
    module = importlib.import_module(f"{__name__}.{name}")
    return module.CONFIG, module.METHOD


def get_version(name: str) -> int:
    """The module's VERSION (1 where it has none); raised with a change that moves a number."""
    get_method(name)
    module = importlib.import_module(f"{__name__}.{name}")
    return int(getattr(module, "VERSION", 1))


def build_config(name: str, values: Mapping[str, Any]) -> Any:
    """The method's frozen Config from plain values; checks names and types, then its own ranges.

    Raises:
        ConfigError: If a key is unknown or missing, or a value out of range.
    """
    return config_from(get_method(name)[0], name, values)


def check_settings(names: PartialImport, name: str, values: Mapping[str, Any]) -> None:
    """Nothing, when `build_config` would build a Config; torch is not imported for it.

    Raises:
        ConfigError: As `build_config`.
        UnknownMethodError: If there is no such method.
    """
    _check_name(name)
    config_from(names.name(f"{__name__}.{name}", "CONFIG"), name, values)


def config_from(config_class: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    """`build_config` for a Config that was loaded before."""
    known = {field.name for field in fields(config_class)}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean method.{close[0]}?" if close else ""
            raise ConfigError(f"method.{key} is not a setting of {name}{hint}")
    missing = sorted(known - set(values))
    if missing:
        raise ConfigError(f"method.{missing[0]} has no value for {name}")
    for key, kind in get_type_hints(config_class).items():
        if allowed := misfit(values[key], kind):
            raise ConfigError(f"method.{key} is {values[key]!r}; {allowed}")
    listed = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return config_class(**listed)


def _check_name(name: str) -> None:
    known = known_modules()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        raise UnknownMethodError(f"no method {name!r};{hint} known: {', '.join(known)}")
