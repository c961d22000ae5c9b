"""Reads the folder of search spaces: one YAML file per choice, parsed once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "search_spaces"
_MOST_NAMES = 30  # of an error message
GROUPS = ("ablation", "backbone", "dataset", "method", "scale", "scheduler")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1 with floats as OmegaConf reads them."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._seen: set[int] = set()  # mappings by id: their merge keys are resolved only once

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuses a key that stands there twice, of which YAML keeps the last in silence."""
        if id(node) not in self._seen:
            self._seen.add(id(node))
            keys = [str(key.value) for key, _ in node.value]
            for number, key in enumerate(keys):
                if key in keys[:number]:
                    mark = node.value[number][0].start_mark
                    raise yaml.constructor.ConstructorError(
                        None, None, f"line {mark.line + 1}: {key!r} stands there twice", None
                    )
        super().flatten_mapping(node)


# Plain YAML 1.1 takes 1e-4 for a string, because it has no dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.[0-9_]+(?:[eE][-+][0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


class SearchSpaces:
    """The YAML files below one folder, each parsed on first use.

    Raises:
        UsageError: From every method, for a name without a file or a file that is not a YAML
        mapping.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        if not (folder / "config.yaml").is_file():
            raise UsageError(f"{folder} holds no config.yaml; it is not a folder of search spaces")
        self.folder = folder
        self._loaded: dict[tuple[str, object], Mapping[str, Any]] = {}
        self._names: dict[str, tuple[str, ...]] = {}

    def names(self, group: str) -> tuple[str, ...]:
        """What may be chosen in `group`, sorted."""
        if group not in self._names:
            found = (path.stem for path in (self.folder / group).glob("*.yaml"))
            self._names[group] = tuple(sorted(found))
        return self._names[group]

    def load(self, group: str, name: object) -> Mapping[str, Any]:
        """`<group>/<name>.yaml`; shared by all callers, who leave it as it is."""
        if (group, name) not in self._loaded:
            names = self.names(group)
            if not isinstance(name, str) or name not in names:
                raise unknown(f"{group}={name}", str(name), names)
            self._loaded[group, name] = self._read(self.folder / group / f"{name}.yaml")
        return self._loaded[group, name]

    def root(self) -> Mapping[str, Any]:
        """`config.yaml`."""
        if ("", "config") not in self._loaded:
            self._loaded["", "config"] = self._read(self.folder / "config.yaml")
        return self._loaded["", "config"]

    def question(self, ablation: str) -> str:
        """The question that an ablation answers: the comment on the second line of its file."""
        lines = self._lines("ablation", ablation)
        second = lines[1] if len(lines) > 1 else ""
        return second.lstrip("# ").strip() if second.startswith("#") else ""

    def first_line(self, group: str, name: str) -> str:
        """The first line of a file, where its package is declared."""
        return next(iter(self._lines(group, name)), "").strip()

    def _lines(self, group: str, name: str) -> list[str]:
        return (self.folder / group / f"{name}.yaml").read_text("utf-8").splitlines()

    @staticmethod
    def _read(path: Path) -> Mapping[str, Any]:
        try:
            content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{path} is not readable as YAML: {reason}") from error
        if content is not None and not isinstance(content, dict):
            raise UsageError(f"{path} must hold a mapping, not a {type(content).__name__}")
        return content or {}


def unknown(typed: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for an unknown name: what was typed, the nearest name, all names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    listed = ", ".join(names[:_MOST_NAMES]) or "none"
    return UsageError(f"{typed}: no such name; {guess}known: {listed}{more}")
