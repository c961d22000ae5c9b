"""Edit methods, one module each, found by file name and imported only when used.

A method that needs parts of its own is a folder, whose `method.py` is its module.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import ConfigError, UnknownMethodError
from trainables.partial_import import PartialImport

if TYPE_CHECKING:
    from trainables.interfaces import EditMethod, Family  # and torch: not for --list

# Keys of a method's YAML that are not settings of the method itself.
NOT_SETTINGS = frozenset(
    {"name", "module", "order", "batches", "published_on", "reading", "cost", "tune"}
    | {"presets", "presets_from", "printed"}
)


def method_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the method's Config, from its YAML or a trial's specification."""
    return {key: value for key, value in values.items() if key not in NOT_SETTINGS}


def known_modules() -> list[str]:
    """Names of all method modules."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module_of(name: str) -> str:
    """Dotted name of the module of method `name`.

    Raises:
        UnknownMethodError: If there is no such method.
    """
    are_folders = {module.name: module.ispkg for module in pkgutil.iter_modules(__path__)}
    if name not in are_folders:
        close = difflib.get_close_matches(name, are_folders, n=1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        known = ", ".join(known_modules())
        raise UnknownMethodError(f"no method {name!r};{hint} known: {known}")
    return f"{__name__}.{name}.method" if are_folders[name] else f"{__name__}.{name}"


def get_method(name: str) -> tuple[type[Any], Callable[..., EditMethod]]:
    """The class Config of method `name`, and what makes the method: a class or a function.

    Raises:
        UnknownMethodError: If there is no such file.
    """
    module = importlib.import_module(module_of(name))
    return module.CONFIG, module.METHOD


def get_version(name: str) -> int:
    """The module's VERSION (1 where it has none); raised with a change that moves a number."""
    module = importlib.import_module(module_of(name))
    return int(getattr(module, "VERSION", 1))


def has_routes(name: str) -> bool:
    """Whether method `name` sends prompts or tokens to experts; read from its file, not imported.

    Raises:
        UnknownMethodError: If there is no such method.
    """
    spec = importlib.util.find_spec(module_of(name))
    assert spec is not None
    assert spec.origin is not None
    statements = ast.parse(Path(spec.origin).read_bytes(), spec.origin).body
    defined = {
        part.name
        for statement in statements
        if isinstance(statement, ast.ClassDef)
        for part in statement.body
        if isinstance(part, ast.FunctionDef)
    }
    return bool(defined & {"routes", "token_routes"})


def check_family(name: str, family: Family, config: Any) -> None:
    """Refuse a backbone family that the method cannot edit, by its own `check_family` if any.

    Its `check_modules`, if any, refuses settings that name nothing in the family.

    Raises:
        BackboneError: If it cannot.
        ConfigError: If the settings name nothing there.
    """
    module = importlib.import_module(module_of(name))
    if (check := getattr(module, "check_family", None)) is not None:
        check(family)
    if (check := getattr(module, "check_modules", None)) is not None:
        check(config, family)


def build_config(name: str, values: Mapping[str, Any]) -> Any:
    """The method's frozen Config from plain values.

    Raises:
        ConfigError: If a key is unknown or missing, or a value out of range.
    """
    return Settings(name, get_method(name)[0]).build(values)


class Settings:
    """Builds Configs of one method."""

    def __init__(self, name: str, config_class: type[Any]) -> None:
        """`name` is that of the method's module."""
        self._name, self._config_class = name, config_class
        self._keys = [field.name for field in fields(config_class)]

    @classmethod
    def without_import(cls, name: str, parts: PartialImport) -> Settings:
        """As for the Config that `get_method` gives, but without torch.

        Raises:
            UnknownMethodError: If there is no such method.
        """
        return cls(name, parts.name(module_of(name), "CONFIG"))

    def build(self, values: Mapping[str, Any]) -> Any:
        """The Config of `values`.

        Raises:
            ConfigError: If a key is unknown or missing, or a value out of range.
        """
        for key in values:
            if key not in self._keys:
                close = difflib.get_close_matches(key, self._keys, n=1)
                hint = f"; did you mean method.{close[0]}?" if close else ""
                raise ConfigError(f"method.{key} is not a setting of {self._name}{hint}")
        missing = sorted({*self._keys} - values.keys())
        if missing:
            raise ConfigError(f"method.{missing[0]} has no value for {self._name}")
        return self._config_class(**values)
