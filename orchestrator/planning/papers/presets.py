"""Finds the presets of a method on one backbone: published ones, the backbone's, a file's; pure.

A method's file holds the values that papers print for public models, by backbone and paper. A
backbone's file holds the values chosen for that backbone. Key by key, a backbone's value beats a
published one, and a value of `presets=FILE` beats both. `presets=published` leaves the
backbone's out. A method that says `presets_from` has those of another one below its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.ranges import as_kind_of
from orchestrator.planning.trial_spec import HEADER, TrialSpec
from orchestrator.settings.complaints import unknown
from orchestrator.settings.models import SweepConfig
from orchestrator.settings.presets import PUBLISHED
from orchestrator.settings.yaml_files import SearchSpaces

Found = tuple[str, str, Any]  # source, key, value


class Presets:
    """The presets of one sweep; remembers which methods have none."""

    def __init__(self, config: SweepConfig) -> None:
        """Nothing is read before it is asked for."""
        self._config = config
        self._of_backbones: dict[str, dict[str, dict[str, tuple[Any, str]]]] = {}
        self._without: set[tuple[str, str]] = set()

    def found(self, method: str, backbone: str | None, shown: str) -> list[Found]:
        """All preset values, weakest first.

        Args:
            method: Name of its file.
            backbone: Name of the file that describes the model that runs; None for a folder that no
                file describes, whose name says nothing.
            shown: The name of that model.

        Raises:
            UsageError: For a key that the method does not have, or a value of another kind.
        """
        loaded = self._config.spaces.load("method", method)
        found = [*self._published(loaded, backbone)]
        if self._config.presets != PUBLISHED:
            found += self._chosen(method, loaded, backbone)
        fields = fields_of(loaded)
        is_asked = self._config.presets == PUBLISHED
        if fields and not found and not is_asked and backbone != loaded.get("published_on"):
            self._without.add((method, shown))
        return found

    def chosen(self, method: str, backbone: str | None) -> dict[str, Any]:
        """Values of the backbone's file and `presets=FILE`, though `presets=published` be typed.

        Raises:
            UsageError: For a key that the method does not have, or a value of another kind.
        """
        loaded = self._config.spaces.load("method", method)
        return {key: value for _, key, value in self._chosen(method, loaded, backbone)}

    def notes(self, trials: Iterable[TrialSpec]) -> list[str]:
        """One line for each backbone on which some of the trials run without any preset."""
        run = dict.fromkeys((trial.backbone["name"], trial.method["name"]) for trial in trials)
        methods: dict[str, list[str]] = {}
        for backbone, method in run:
            if (method, backbone) in self._without:
                methods.setdefault(backbone, []).append(method)
        return [
            f"no preset for {backbone}: {', '.join(names)} "
            f"{'runs' if len(names) == 1 else 'run'} with the values of the method's own file; "
            "presets=FILE gives others"
            for backbone, names in methods.items()
        ]

    def check_used(self, trials: Iterable[TrialSpec]) -> None:
        """Raises UsageError where `presets=FILE` is typed and sets nothing of any trial."""
        if self._config.presets == PUBLISHED:
            return
        methods = dict.fromkeys(trial.method["name"] for trial in trials)
        load = self._config.spaces.load
        named = (name for method in methods for name in _names(method, load("method", method)))
        if self._config.presets and not any(map(self._config.preset_values.get, named)):
            raise UsageError(
                f"presets={self._config.presets}: sets nothing for {', '.join(methods)}"
            )

    def _chosen(
        self, method: str, loaded: Mapping[str, Any], backbone: str | None
    ) -> Iterator[Found]:
        """Values chosen for the backbone: those of its file, then those of `presets=FILE`."""
        names = _names(method, loaded)
        for name in names:
            yield from self._of_backbone(name, loaded, backbone)
        for name in names:
            for key, value in self._config.preset_values.get(name, {}).items():
                yield f"presets {self._config.presets}", key, value

    def _published(self, loaded: Mapping[str, Any], backbone: str | None) -> Iterator[Found]:
        """Presets in the method's file: of the table, else of its paper, else the default ones."""
        of_backbone = (loaded.get("presets") or {}).get(backbone) or {}
        for paper in (*self._config.paper, *self._config.papers, "default"):
            if preset := of_backbone.get(paper):
                label = f"presets of method {loaded['name']}"
                for key, value in preset.items():
                    _check_key(label, key, loaded)
                    yield f"preset {backbone}/{paper}", key, value
                return

    def _of_backbone(
        self, method: str, loaded: Mapping[str, Any], backbone: str | None
    ) -> Iterator[Found]:
        if backbone is None:
            return
        if backbone not in self._of_backbones:
            made = self._config.spaces.presets(backbone)
            _check_methods(f"backbone {backbone}: presets", made, self._config.spaces)
            self._of_backbones[backbone] = made
        for key, (value, file) in self._of_backbones[backbone].get(method, {}).items():
            label = f"backbone {file}: presets.{method}"
            _check_key(label, key, loaded)
            value = as_kind_of(f"{label}.{key}", value, loaded[key])
            yield f"preset {file}", key, value


def check_typed_presets(config: SweepConfig) -> None:
    """Raises UsageError unless all methods and keys of `presets=FILE` exist and values fit."""
    label = f"presets={config.presets}"
    _check_methods(label, config.preset_values, config.spaces)
    for method, values in config.preset_values.items():
        loaded = config.spaces.load("method", method)
        for key, value in values.items():
            _check_key(f"{label}: {method}", key, loaded)
            as_kind_of(f"{label}: {method}.{key}", value, loaded[key])


def fields_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a method's file, without the keys that describe the method."""
    return {key: value for key, value in method.items() if key not in HEADER}


def _names(method: str, loaded: Mapping[str, Any]) -> tuple[str, ...]:
    """The methods whose presets hold for one, weakest first: that of `presets_from`, and itself."""
    other = loaded.get("presets_from")
    return (method,) if other is None else (str(other), method)


def _check_methods(label: str, presets: Iterable[str], spaces: SearchSpaces) -> None:
    for method in presets:
        if method not in spaces.names("method"):
            raise unknown(f"{label}: {method}", str(method), spaces.names("method"))


def _check_key(label: str, key: str, loaded: Mapping[str, Any]) -> None:
    if key not in fields_of(loaded):
        raise unknown(f"{label}: {key}", str(key), fields_of(loaded))
