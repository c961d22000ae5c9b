"""Checks that every key of a sweep exists for the trials that it is set for; pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.papers.presets import check_typed_presets, fields_of
from orchestrator.planning.ranges import as_kind_of
from orchestrator.planning.trial_spec import HEADER
from orchestrator.settings.complaints import unknown
from orchestrator.settings.composition import own_choices
from orchestrator.settings.models import COMMAND_LINE, PARTS, Protocol, SweepConfig

# What a file says of its own subject; another subject is another file.
_DESCRIBED = {
    "method": frozenset({*HEADER, "base"}),
    "backbone": frozenset({"name", "base", "presets", "presets_from"}),
    "dataset": frozenset({"name", "base", "module", "source", "version", "locality"}),
}


def check_keys(config: SweepConfig) -> None:
    """Checks that every key of an axis or arm, or set for a method, exists where it is set.

    Raises:
        UsageError: Otherwise, with the key as typed and the nearest one.
    """
    _check_values(config)
    methods = methods_of(config)
    fields = _fields(config, methods)
    _check_chosen(config, fields)
    _check_layers(config, methods, fields)
    fixed = {key for settings in config.arms.values() for key in settings}
    for key in _typed(config):
        if key in fixed:
            arms = [name for name, settings in config.arms.items() if key in settings]
            raise UsageError(
                f"{key}: the arms of ablation={config.ablation} set it; it cannot be typed "
                f"(arms: {', '.join(arms)})"
            )
    _check_arms(config, methods)
    _check_arm_values(config, methods)
    check_typed_presets(config)
    known = fields | {f"protocol.{key}" for key in Protocol.model_fields} | set(PARTS)
    for part in ("backbone", "dataset"):
        keys = config.spaces.load(part, config.choices[part]).keys() - _DESCRIBED[part]
        known |= {f"{part}.{key}" for key in keys}
    for kind, keys in (("axes", set(config.axes)), ("arms", fixed)):
        for key in sorted(keys - known):
            _check_described(key, f"{kind}.")
            if key.startswith("method."):
                raise unknown(f"{kind}.{key} (methods: {', '.join(methods)})", key, fields)
            raise unknown(f"{kind}.{key}", key, known)
    if overlap := sorted(fixed & set(config.axes)):
        raise UsageError(
            f"axes.{overlap[0]}: the arms of ablation={config.ablation} set it already"
        )


def _check_chosen(config: SweepConfig, fields: Collection[str]) -> None:
    """Raises UsageError if the method typed has not what the ablation's own file sweeps."""
    method = config.choices["method"]
    if "method" in config.axes or method == own_choices(config.spaces, config.ablation)["method"]:
        return
    own = [key for key in config.axes if key.startswith("method.") and key not in config.own_units]
    if lacking := [key for key in own if key not in fields]:
        names = config.spaces.names("method")
        fitting = [name for name in names if _fields(config, [name]).issuperset(lacking)]
        raise UsageError(
            f"method={method}: it has no {', '.join(lacking)}, which ablation={config.ablation} "
            f"sweeps; methods that have: {', '.join(fitting) or 'none'}"
        )


def _check_layers(config: SweepConfig, methods: Iterable[Any], fields: Collection[str]) -> None:
    """Raises UsageError where a file or the command line sets what no method has."""
    of_file = _fields(config, _methods_of_file(config))
    for layer in config.layers:
        is_typed = layer.source == COMMAND_LINE
        for key in layer.values:
            _check_described(key)
            is_known = key in fields or (not is_typed and key in of_file)
            if key.startswith("method.") and not is_known:
                source = "" if is_typed else f"{layer.source}; "
                raise unknown(f"{key} ({source}methods: {', '.join(methods)})", key, fields)


def methods_of(config: SweepConfig) -> list[str]:
    """Every method that the sweep may use."""
    axis = config.axes.get("method")
    if isinstance(axis, dict):
        axis = axis.get("choices") or []
    named = [settings["method"] for settings in config.arms.values() if "method" in settings]
    if axis is not None:
        return [*dict.fromkeys(axis)]
    if named and len(named) == len(config.arms):
        return [*dict.fromkeys(named)]
    return [*dict.fromkeys([config.choices["method"], *named])]


def _methods_of_file(config: SweepConfig) -> list[Any]:
    """Methods that arms and axes of the ablation's file name, chosen or not; then the default."""
    content = config.spaces.load("ablation", config.ablation)
    blocks = [content, *(content.get("scales") or {}).values()]
    arms = [each for block in blocks for each in ((block or {}).get("arms") or {}).values()]
    named = [settings["method"] for settings in arms if settings and "method" in settings]
    axes = [((block or {}).get("axes") or {}).get("method") for block in blocks]
    named += [name for axis in axes if isinstance(axis, list) for name in axis]
    return [*named, own_choices(config.spaces, config.ablation)["method"]] if named else []


def partly_obeyed(config: SweepConfig) -> list[str]:
    """A line for each key typed for `method` that only some methods have, and which these are."""
    methods = methods_of(config)
    typed = [*_typed(config), *sorted(key for key in config.own_units if key in config.axes)]
    said = []
    for key in dict.fromkeys(typed):
        without = [name for name in methods if key not in _fields(config, [name])]
        if key.startswith("method.") and without:
            obeying = [name for name in methods if name not in without]
            verb = "has" if len(without) == 1 else "have"
            said.append(
                f"{key} holds for {', '.join(obeying)}; {', '.join(without)} {verb} no such setting"
            )
    return said


def _check_values(config: SweepConfig) -> None:
    """Raises UsageError for values that an axis, or the choice of a part, cannot have."""
    for key, values in config.axes.items():
        if isinstance(values, dict) and not config.is_search:
            raise UsageError(
                f"axes.{key}: a distribution needs plan=search or plan=tune; "
                f"plan={config.plan} takes a list"
            )
        listed = values.get("choices", []) if isinstance(values, dict) else values
        if not isinstance(listed, list):
            continue  # `space` says so
        written = [json.dumps(value, sort_keys=True, default=str) for value in listed]
        for number, value in enumerate(written):
            if value in written[:number]:
                raise UsageError(f"axes.{key}: {value} stands there twice")
        if key in PARTS and not all(isinstance(value, str) for value in listed):
            raise UsageError(f"axes.{key}={listed}: must be names, axes.{key}=[NAME, ...]")
    for arm, settings in config.arms.items():
        for part in PARTS:
            if part in settings and not isinstance(settings[part], str):
                raise UsageError(f"arms.{arm}.{part}={settings[part]}: must be a name")


def _typed(config: SweepConfig) -> list[str]:
    return sorted(
        key for layer in config.layers if layer.source == COMMAND_LINE for key in layer.values
    )


def _fields(config: SweepConfig, methods: Iterable[Any]) -> set[str]:
    """Keys that may be set for one of the methods."""
    loaded = (config.spaces.load("method", name) for name in methods)
    return {f"method.{key}" for each in loaded for key in fields_of(each)}


def _check_described(key: str, prefix: str = "") -> None:
    """Raises UsageError for a key that describes a part, so that it is no setting."""
    part, _, name = key.partition(".")
    hint = f"; did you mean {_MEANT[key]!r}?" if key in _MEANT else ""
    if name not in _DESCRIBED.get(part, ()):
        if hint:
            raise UsageError(f"{prefix}{key}: no such name{hint}")
        return
    if name == "name":
        choice = f"axes.{part}=[NAME, ...]" if prefix == "axes." else f"{part}=NAME"
        raise UsageError(f"{prefix}{key}: the name of a file; choose with {choice}")
    raise UsageError(f"{prefix}{key}: it is set in the file of the {_WORDS[part]} alone{hint}")


_MEANT = {
    "method.order": "protocol.order",
    "backbone.presets": "presets",
    "backbone.edit_layer": "method.edit_layer",
}
_WORDS = {"method": "method", "backbone": "backbone", "dataset": "data set"}


def _check_arms(config: SweepConfig, methods: Collection[Any]) -> None:
    """Raises UsageError if an arm sets a key that its method lacks: the arm would equal another."""
    for arm, settings in config.arms.items():
        for name in _methods_of_arm(config, arm, methods):
            fields = _fields(config, [name])
            for key in settings:
                if key.startswith("method.") and key not in fields:
                    raise unknown(f"arms.{arm}.{key} (method: {name})", key, fields)


def _check_arm_values(config: SweepConfig, methods: Collection[Any]) -> None:
    """Raises UsageError for `method.<arm>.<key>` that the arm lacks, or that it sets itself.

    An arm is one of the ablation's, or a method that it compares.
    """
    for arm, values in config.arm_values.items():
        if arm not in config.arms and arm not in methods:
            typed = f"method.{arm}.{next(iter(values))}"
            raise unknown(typed, arm, {*config.arms, *methods})
        for key, value in values.items():
            _check_arm_value(config, methods, arm, key, value)


def _check_arm_value(
    config: SweepConfig, methods: Collection[Any], arm: str, key: str, value: Any
) -> None:
    typed, plain = f"method.{arm}.{key}", f"method.{key}"
    own = _methods_of_arm(config, arm, methods) if arm in config.arms else [arm]
    fields = _fields(config, own)
    if plain not in fields:
        raise unknown(f"{typed} (methods: {', '.join(own)})", plain, fields)
    meant = [
        name
        for name in config.arms
        if name == arm or (arm not in config.arms and arm in _methods_of_arm(config, name, methods))
    ]
    if setting := [name for name in meant if plain in config.arms[name]]:
        raise UsageError(
            f"{typed}: the arms of ablation={config.ablation} set it; it cannot be typed "
            f"(arms: {', '.join(setting)})"
        )
    if plain in config.axes:
        raise UsageError(
            f"{typed}: axes.{plain} moves it in every arm; axes.{plain}=null drops that axis"
        )
    for name in own:
        as_kind_of(typed, value, config.spaces.load("method", name).get(key))


def _methods_of_arm(config: SweepConfig, arm: str, methods: Collection[Any]) -> list[Any]:
    settings = config.arms[arm]
    return [settings["method"]] if "method" in settings else _unnamed(config, methods)


def _unnamed(config: SweepConfig, methods: Collection[Any]) -> list[Any]:
    """The methods of an arm that does not name one."""
    return list(methods) if "method" in config.axes else [config.choices["method"]]
