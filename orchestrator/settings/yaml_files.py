"""Reads the folder of search spaces: one YAML file per choice, parsed once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import UsageError
from orchestrator.settings.complaints import unknown
from orchestrator.settings.file_headers import check_header
from trainables.bases import presets_of, with_base
from trainables.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "search_spaces"
GROUPS = ("ablation", "backbone", "dataset", "method", "scale", "scheduler")
_WITH_BASE = ("backbone", "dataset", "method")
_OF_PRESETS = ("presets", "presets_from")  # of a backbone; see `SearchSpaces.presets`


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
        self._files: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._source_files: dict[tuple[str, object], Mapping[str, str]] = {}
        self._names: dict[str, tuple[str, ...]] = {}

    def names(self, group: str) -> tuple[str, ...]:
        """What may be chosen in `group`, sorted."""
        if group not in self._names:
            found = (path.stem for path in (self.folder / group).glob("*.yaml"))
            self._names[group] = tuple(sorted(found))
        return self._names[group]

    def load(self, group: str, name: object) -> Mapping[str, Any]:
        """`<group>/<name>.yaml` merged over its base; callers share it and must not change it.

        A backbone comes without its presets, which `presets` gives.
        """
        if (group, name) not in self._loaded:
            names = self.names(group)
            if not isinstance(name, str) or name not in names:
                raise unknown(f"{group}={name}", str(name), names)
            self._loaded[group, name] = self._on_base(group, name)
        return self._loaded[group, name]

    def source(self, group: str, name: str, key: str) -> str:
        """The file that sets a key: `method arm`, or `method mine (base arm)` if its base does."""
        self.load(group, name)
        file = self._source_files.get((group, name), {}).get(key, name)
        return f"{group} {name}" + ("" if file == name else f" (base {file})")

    def presets(self, backbone: str) -> dict[str, dict[str, tuple[Any, str]]]:
        """A backbone's presets: (value, file that sets it), by method and key."""
        try:
            return presets_of(backbone, lambda file: self._file("backbone", file, backbone))
        except ConfigError as error:
            raise UsageError(str(error)) from error

    def _on_base(self, group: str, name: str) -> Mapping[str, Any]:
        if group not in _WITH_BASE:
            return self._file(group, name, name)
        try:
            values, self._source_files[group, name] = with_base(
                name, lambda file: self._file(group, file, name), has_module=group != "backbone"
            )
        except ConfigError as error:
            raise UsageError(f"{group} {error}") from error
        if group == "backbone":
            values = {key: value for key, value in values.items() if key not in _OF_PRESETS}
        return values

    def _file(self, group: str, file: str, asked: str) -> Mapping[str, Any]:
        """One file as it is written; `asked` is the file whose base it is, or itself."""
        if (group, file) not in self._files:
            if file not in self.names(group):
                raise unknown(f"{group} {asked} stands on {file}", file, self.names(group))
            content = self.read(self.folder / group / f"{file}.yaml")
            check_header(group, file, content)
            if group == "method":
                self._check_backbones(file, content)
            self._files[group, file] = content
        return self._files[group, file]

    def _check_backbones(self, file: str, method: Mapping[str, Any]) -> None:
        """Refuses a method's file that names a backbone which is not there."""
        named = {"published_on": [method.get("published_on")], "presets": method.get("presets")}
        for key, backbones in named.items():
            for name in backbones or ():
                if name is not None and name not in self.names("backbone"):
                    label = f"method/{file}.yaml: {key}: {name}"
                    raise unknown(label, name, self.names("backbone"))

    def root(self) -> Mapping[str, Any]:
        """`config.yaml`."""
        if ("", "config") not in self._loaded:
            self._loaded["", "config"] = self.read(self.folder / "config.yaml")
        return self._loaded["", "config"]

    def metrics(self) -> Mapping[str, Any]:
        """`metrics.yaml`: what a trial measures."""
        if ("", "metrics") not in self._loaded:
            self._loaded["", "metrics"] = self.read(self.folder / "metrics.yaml")
        return self._loaded["", "metrics"]

    def deviations(self) -> Mapping[str, Any]:
        """`deviations.yaml`: what papers state and `scale=paper` does not meet."""
        return self.read(self.folder / "deviations.yaml")

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
    def read(path: Path) -> Mapping[str, Any]:
        """The mapping in a YAML file, wherever it lies."""
        try:
            content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{path} is not readable as YAML: {reason}") from error
        if content is not None and not isinstance(content, dict):
            raise UsageError(f"{path} must hold a mapping, not a {type(content).__name__}")
        return content or {}
