"""Checks that a value is of the right kind and fits the backbone; pure."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.trial_spec import (
    DEPTH_FIELDS,
    LAYER_LISTS,
    WIDTH_FIELDS,
    TrialSpec,
)

# `cost: {trains: ...}` of methods that find a vector for the subject of an edit.
_SUBJECT_VECTORS = ("vector", "vectors", "hooks")


def check_ranges(spec: TrialSpec) -> None:
    """Raises UsageError if a layer, rank or count of the method does not fit its backbone."""
    method, backbone = spec.method, spec.backbone
    depth, width = int(backbone["num_layers"]), int(backbone["hidden_size"])
    layers = [("edit_layer", method.get("edit_layer"))]
    layers += [(name, layer) for name in LAYER_LISTS for layer in method.get(name) or []]
    for name, layer in layers:
        if isinstance(layer, int) and not 0 <= layer < depth:
            raise UsageError(
                f"method.{name}={layer}: backbone {backbone['name']!r} has layers 0 to {depth - 1}"
            )
        if layer == depth - 1 and spec.cost.get("trains") in _SUBJECT_VECTORS:
            raise UsageError(
                f"method.{name}={layer}: {method['name']} changes what later tokens read of the "
                f"subject, and nothing is behind the last layer of backbone {backbone['name']!r}; "
                f"allowed: 0 to {depth - 2}"
            )
    check_counts(spec)
    rank = method.get("lora_rank")
    if isinstance(rank, int) and rank > width:
        raise UsageError(
            f"method.lora_rank={rank}: backbone {backbone['name']!r} is {width} wide; "
            f"allowed: 1 to {width}"
        )
    top_k, experts = method.get("top_k"), method.get("num_experts")
    if isinstance(top_k, int) and isinstance(experts, int) and top_k > experts:
        raise UsageError(f"method.top_k={top_k}: must lie in 1 to method.num_experts={experts}")


def check_counts(spec: TrialSpec) -> None:
    """Raises UsageError if a count of the method is below 1, which fits no backbone."""
    for name, value in spec.method.items():
        if _is_count(name) and isinstance(value, int) and value < 1:
            raise UsageError(f"method.{name}={value}: must be at least 1")


def check_size(name: str, value: Any) -> None:
    """Raises UsageError unless a layer or rank, or each of a list of layers, is a whole number."""
    if name in LAYER_LISTS and not isinstance(value, list):
        raise UsageError(f"method.{name}={_shown(value)}: must be a list of whole numbers")
    if name in (*DEPTH_FIELDS, *WIDTH_FIELDS):
        for each in value if name in LAYER_LISTS else [value]:
            if type(each) is not int:
                raise UsageError(f"method.{name}={_shown(value)}: must be a whole number")


_MOST_SHOWN = 200  # characters of a value in a complaint


def _is_storable(number: float) -> bool:
    """Whether a number is finite and, if whole, fits into 64 bits."""
    return abs(number) < 2**63 if isinstance(number, int) else math.isfinite(number)


def as_kind_of(key: str, value: Any, default: Any) -> Any:
    """Returns `value` if it is of the same kind as `default`.

    Raises:
        UsageError: Otherwise.
    """
    name = key.rpartition(".")[2]
    if value is None or default is None:
        return value
    if isinstance(default, bool):
        kind, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, int | float):
        whole = (
            _is_count(name)
            or name in DEPTH_FIELDS
            or name in ("num_layers", "hidden_size", "ffn_size")
        )
        number = int if whole else int | float
        kind = "a whole number" if whole else "a number"
        fits = isinstance(value, number) and not isinstance(value, bool) and _is_storable(value)
    elif isinstance(default, list):
        kind, fits = "a list, [...]", isinstance(value, list)
        if fits and default and isinstance(default[0], int):
            value = [as_kind_of(key, item, default[0]) for item in value]
    elif isinstance(default, dict):
        kind, fits = "a mapping, {...}", isinstance(value, dict)
    else:
        kind, fits = "a word", isinstance(value, str)
    if not fits:
        raise UsageError(f"{key}={_shown(value)}: must be {kind}, as in {default!r}")
    return value


@functools.cache
def _is_count(name: str) -> bool:
    return name.startswith("num_") or name in ("top_k", "lora_rank")


def _shown(value: Any) -> str:
    """A value as it was typed, shortened where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
