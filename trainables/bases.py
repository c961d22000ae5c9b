"""Reads files of search_spaces that inherit from another one: `base` and `presets_from`.

A file that says `base: <file of its folder>` has all keys of that file, and its own keys win.
`presets` are merged with those of the base key by key; every other key is replaced whole. A
backbone that says `presets_from: <file>` takes its presets from there instead of from its base, and
a method that does so has that method's, on every backbone, below its own. A base may have a base of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from trainables.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "search_spaces"
Read: TypeAlias = Callable[[str], Mapping[str, Any]]  # name of a file -> what it holds
_PRESETS = "presets"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is ten times as fast


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, read without making any object but plain ones."""
    return yaml.load(path.read_text("utf-8"), Loader=_LOADER)


def with_base(name: str, read: Read, *, has_module: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys of the file `name` and of its bases, and for each key the file it comes from.

    Args:
        name: Of the file, in its folder.
        read: Reads a file of that folder.
        has_module: Whether such a file is run by a module, which bears the file's name unless the
            file says another one: that of the base is then inherited, too.

    Raises:
        ConfigError: If a file comes back to itself, or `base` is no name.
    """
    values: dict[str, Any] = {}
    stands_in: dict[str, str] = {}
    for file in reversed(_chain(name, read, ("base",))):
        if values and has_module:
            values.setdefault("module", values["name"])
        own = {key: value for key, value in read(file).items() if key != "base"}
        if isinstance(own.get(_PRESETS), Mapping):
            own[_PRESETS] = _laid(values.get(_PRESETS) or {}, own[_PRESETS])
        values = {**values, "name": file, **own}
        stands_in |= dict.fromkeys(own, file)
    return values, stands_in


def presets_of(name: str, read: Read) -> dict[str, dict[str, tuple[Any, str]]]:
    """Presets of the backbone `name`: method -> key -> (value, file in which it stands).

    Raises:
        ConfigError: If a file comes back to itself, or its presets are no mapping of mappings.
    """
    presets: dict[str, dict[str, tuple[Any, str]]] = {}
    for file in reversed(_chain(name, read, ("presets_from", "base"))):
        own = read(file).get(_PRESETS) or {}
        check_presets(own, f"backbone {file}: {_PRESETS}")
        for method, values in own.items():
            held = presets.setdefault(method, {})
            held.update({key: (value, file) for key, value in values.items()})
    return presets


def check_presets(presets: Any, label: str) -> None:
    """Raises ConfigError unless `presets` are {method: {key: value}}."""
    wanted = "must be a mapping, {method: {key: value}}"
    if not isinstance(presets, Mapping):
        raise ConfigError(f"{label}: {wanted}, not {presets!r}")
    for method, values in presets.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"{label}.{method}: {wanted}, not {values!r}")
        for key in (method, *values):
            if not isinstance(key, str):
                raise ConfigError(f"{label}: {key}: a key must be a word")


def read_method(name: str) -> dict[str, Any]:
    """`search_spaces/method/<name>.yaml` with what it inherits from its base."""
    return with_base(name, _reader("method"), has_module=True)[0]


def packages() -> dict[str, dict[str, Any]]:
    """The backbone files that name a package: what they hold, by name."""
    read, names = _reader("backbone"), sorted(path.stem for path in _files("backbone"))
    found = {name: with_base(name, read, has_module=False)[0] for name in names}
    return {name: values for name, values in found.items() if values.get("package")}


def read_presets(backbone: str, method: str) -> dict[str, Any]:
    """What `search_spaces/backbone/<backbone>.yaml` presets for a method; nothing for most."""
    presets = presets_of(backbone, _reader("backbone"))
    other = read_method(method).get("presets_from") or method
    found = presets.get(other, {}) | presets.get(method, {})
    return {key: value for key, (value, _) in found.items()}


def _files(group: str) -> Iterable[Path]:
    return (FOLDER / group).glob("*.yaml")


def _reader(group: str) -> Read:
    def read(name: str) -> Mapping[str, Any]:
        path = FOLDER / group / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(each.stem for each in _files(group)))
            raise ConfigError(f"no {group} {name!r}; known: {known}")
        return read_yaml(path) or {}

    return read


def _chain(name: str, read: Read, keys: tuple[str, ...]) -> list[str]:
    """The file and those below it, nearest first; the first of `keys` that a file has leads on."""
    chain = [name]
    while True:
        content = read(chain[-1])
        key = next((key for key in keys if key in content), None)
        if key is None or (content[key] is None and key == "presets_from"):
            return chain
        below = content[key]
        if not isinstance(below, str):
            raise ConfigError(f"{chain[-1]}: {key}={below}: must be the name of a file beside it")
        chain.append(below)
        if below in chain[:-1]:
            raise ConfigError(f"{name}: {' -> '.join(chain)}: comes back to itself")


def _laid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: mappings in both are laid over one another, all else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        is_inner = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _laid(inner or {}, value) if is_inner else value
    return merged
