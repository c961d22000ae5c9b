"""Loads one checked configuration from the search spaces and the command line.

`typed` reads `key=value`, and `composition` merges the files. Typed values are laid over the files
here, because the `scales` block of an ablation comes between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import UsageError
from orchestrator.settings.ablation_file import check_ablation
from orchestrator.settings.arms import of_arms, selected
from orchestrator.settings.complaints import complaint, unknown
from orchestrator.settings.composition import compose, merge, own_choices
from orchestrator.settings.models import (
    COMMAND_LINE,
    PARTS,
    Evaluate,
    Layer,
    Protocol,
    Rerun,
    Scheduler,
    SweepConfig,
)
from orchestrator.settings.obeyed import check_obeyed
from orchestrator.settings.presets import read_presets
from orchestrator.settings.typed import Known, parse, split
from orchestrator.settings.yaml_files import FOLDER, GROUPS, SearchSpaces

# Fields that are no keys.
_NOT_TYPED = frozenset(
    {"choices", "layers", "own_units", "spaces", "arms", "arm_values", "preset_values", "question"}
)


def load(overrides: Sequence[str], folder: Path = FOLDER) -> SweepConfig:
    """The sweep that `overrides` (`key=value` as typed) ask for.

    Precedence, weakest first: config.yaml, the chosen files, scale, ablation, the ablation's block
    for that scale, command line. A typed key that the ablation sweeps fixes that axis to one value.

    Raises:
        UsageError: For anything unknown, unreadable or out of range, with what was typed and what
        is allowed.
    """
    parsed = parse(overrides, known_words())
    spaces = SearchSpaces(folder)
    return _load(spaces, *split(parsed, spaces))


def load_store(overrides: Sequence[str]) -> str:
    """The store that `overrides` name where no ablation is asked for.

    Raises:
        UsageError: If anything else is typed.
    """
    parsed = parse(overrides, known_words())
    if others := sorted(parsed.keys() - {"store"}):
        raise UsageError(f"{others[0]}: without ablation=NAME nothing but store=... counts")
    return str(parsed.get("store", SweepConfig.model_fields["store"].default))


def known_words() -> Known:
    """The words that a typed key may begin with, and those that may follow each."""
    known: dict[str, Any] = {name: () for name in (*SweepConfig.model_fields, *GROUPS)}
    known |= {name: None for name in (*PARTS, "axes", "stands_for")}
    parts = (Protocol, Evaluate, Scheduler, Rerun)
    known |= {model.__name__.lower(): tuple(model.model_fields) for model in parts}
    return {name: words for name, words in known.items() if name not in _NOT_TYPED}


def load_plain(spaces: SearchSpaces, chosen: Mapping[str, str]) -> SweepConfig:
    """Like `load` with only choices of groups typed; many calls can share the parsed `spaces`."""
    return _load(spaces, chosen, {})


def _load(spaces: SearchSpaces, chosen: Mapping[str, str], typed: Mapping[str, Any]) -> SweepConfig:
    if "ablation" not in chosen:
        names = ", ".join(spaces.names("ablation"))
        raise UsageError(f"ablation=NAME is missing; known: {names or 'none'}")
    ablation = spaces.load("ablation", chosen["ablation"])
    check_ablation(spaces, chosen["ablation"], known_words())
    scale = (own_choices(spaces, chosen["ablation"]) | dict(chosen))["scale"]
    block = (ablation.get("scales") or {}).get(scale) or {}
    named = {
        group: name for group, name in block.items() if group in GROUPS and isinstance(name, str)
    }
    values, choices = compose(spaces, {**named, **chosen})
    block = {key: value for key, value in block.items() if key not in named}
    _keep_chosen_arms(spaces, values, block, named, chosen)
    if "scheduler" in chosen:
        block.pop("scheduler", None)
    return _build(spaces, values, choices, block, chosen, typed)


def _keep_chosen_arms(
    spaces: SearchSpaces,
    values: dict[str, Any],
    block: dict[str, Any],
    named: Mapping[str, str],
    chosen: Mapping[str, str],
) -> None:
    """Merges the arms of `values` and `block`, and leaves those that `chosen` asks for."""
    arms = dict(values.get("arms") or {})
    merge(arms, block.pop("arms", None) or {})
    arms = {name: settings for name, settings in arms.items() if settings is not None}
    for part in PARTS:
        if part in chosen and arms:
            ablation = chosen["ablation"]
            default = named.get(part) or own_choices(spaces, ablation)[part]
            arms = selected(arms, part, chosen[part], default, ablation)
    values["arms"] = arms


def _build(
    spaces: SearchSpaces,
    values: dict[str, Any],
    choices: dict[str, str],
    block: Mapping[str, Any],
    chosen: Mapping[str, str],
    typed: Mapping[str, Any],
) -> SweepConfig:
    """Lays scale block and command line over the composed `values` and checks the whole."""
    arm_values, typed = of_arms(typed)
    for part in PARTS:
        values.pop(part, None)  # a trial takes these by layers: the choice may be swept
    values.pop("scales", None)
    merge(values, {key: value for key, value in block.items() if key not in PARTS})
    axes, own_units = _axes(values.pop("axes", None) or {}, typed)
    _pin(axes, own_units, {**chosen, **typed})
    _lay_over(values, typed)
    ablation = choices["ablation"]
    values.update(ablation=ablation, question=values.get("question") or spaces.question(ablation))
    made = _checked(
        values,
        axes=axes,
        choices=choices,
        arm_values=arm_values,
        preset_values=read_presets(values.get("presets")),
        layers=_layers(spaces, choices, block, typed),
        own_units=frozenset(own_units),
        spaces=spaces,
    )
    check_obeyed(made, typed)
    return made


def _layers(
    spaces: SearchSpaces,
    choices: Mapping[str, str],
    block: Mapping[str, Any],
    typed: Mapping[str, Any],
) -> tuple[Layer, ...]:
    """Values that each source sets for method, backbone, data set and protocol, weakest first."""
    ablation, scale = choices["ablation"], choices["scale"]
    return (
        Layer("config.yaml", _dotted(spaces.root())),
        Layer(f"scale {scale}", _dotted(spaces.load("scale", scale))),
        Layer(f"ablation {ablation}", _dotted(spaces.load("ablation", ablation))),
        Layer(f"ablation {ablation}, {scale}", _dotted(block)),
        Layer(COMMAND_LINE, {key: value for key, value in typed.items() if _is_part(key)}),
    )


def _pin(axes: dict[str, Any], own_units: set[str], said: Mapping[str, Any]) -> None:
    """Fixes each axis that `said` names to the one value given there."""
    for key, value in said.items():
        if key in axes and not isinstance(axes[key], dict):
            axes[key] = [value]  # typed: the axis is pinned, and still named in the arm
            own_units.add(key)
        elif isinstance(axes.get(key), dict):
            del axes[key]  # a search over it is off


def _lay_over(values: dict[str, Any], typed: Mapping[str, Any]) -> None:
    """Sets typed values, except for axes and for method, backbone, data set and protocol."""
    for key, value in typed.items():
        first, _, rest = key.partition(".")
        if first == "stands_for" and rest:
            values["stands_for"] = {**(values.get("stands_for") or {}), rest: value}
        elif first != "axes" and first not in PARTS:
            _set(values, key, value)


def _checked(values: Mapping[str, Any], **ours: Any) -> SweepConfig:
    """The checked sweep that the files and the command line make.

    Raises:
        UsageError: For the first key that is unknown, that nobody may set, or of a wrong value.
    """
    for key in ours:
        if key in values:
            raise unknown(key, key, known_words())
    try:
        return SweepConfig.model_validate({**values, **ours})
    except ValidationError as error:
        further = {*PARTS, "scale"}
        raise complaint(error, SweepConfig, further, _NOT_TYPED, {**values, **ours}) from error


def _axes(axes: dict[str, Any], typed: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The axes with those typed laid over them, and the names of the latter; null drops an axis."""
    merged = dict(axes)
    own: set[str] = set()
    for key, value in typed.items():
        if key == "axes":
            if not isinstance(value, dict):
                raise UsageError(f"axes={value}: write axes={{method.lora_rank:[4,8]}}")
            merged = dict(value)
            own |= set(value)
        elif key.startswith("axes."):
            name = key.removeprefix("axes.")
            merged[name] = value
            own.add(name)
    for name, values in merged.items():
        if not (
            values is None or isinstance(values, dict) or (isinstance(values, list) and values)
        ):
            raise UsageError(f"axes.{name}={values}: give a list of values, axes.{name}=[...]")
    return {str(name): values for name, values in merged.items() if values is not None}, own


def _is_part(key: str) -> bool:
    return "." in key and key.split(".")[0] in (*PARTS, "protocol")


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """`method.*`, `backbone.*`, `dataset.*` and `protocol.*` of a file, by dotted key."""
    return {
        f"{part}.{key}": value
        for part in (*PARTS, "protocol")
        if isinstance(values.get(part), dict)
        for key, value in values[part].items()
    }


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for index, part in enumerate(path):
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(
                f"{key}: {'.'.join(path[: index + 1])} is a single value, without keys"
            )
    values[last] = value
