"""Fingerprints of trials: a hash of everything that decides a result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from orchestrator.planning.trial_spec import TrialSpec

# What says where or under which name, not what: the same cell of two ablations is one result.
NO_SETTING = {"name", "reading"}  # the values that a reading stands for are there
# Settings that were added, at what held before; by module, as others have the same names.
_AS_BEFORE: Mapping[str, Mapping[str, Any]] = {
    "ft": {"mini_batch_size": None},
    "memit": {"kl_position": "last"},
    "lemoe": {"renormalises_gates": True},
    "memoe_v2": {"merging": "top_k", "gece_mean_over": "batch"},
    "arm": {"likelihood_term": True, "router_optimiser": "adam"},
}
_NOT_DATASET = {"path", "max_edits", "locality"}
_IN_DIGEST = {"keep_unchanged", "answers"}  # of the data
_OF_BAND = {"frequency_band", "frequency_source"}
_NOT_BACKBONE = {"name", "memory_gib", "weights_gib", "edit_layer"}


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and without blanks; equal values give equal text.

    Raises:
        ValueError: If `value` holds NaN, an infinity, or anything that JSON has no form for.
    """
    return json.dumps(
        _normal(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def identity_fields(spec: TrialSpec, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `spec` and `extra` that decides the numbers.

    With `backbone_fingerprint` in `extra`, that, the dtype and the rounding stand for the backbone;
    its name, address and recipe are left out.
    """
    backbone = {key: value for key, value in spec.backbone.items() if key not in _NOT_BACKBONE}
    if extra.get("backbone_fingerprint"):
        backbone = {key: spec.backbone.get(key) for key in ("dtype", "tf32")}
    if not backbone.get("tf32"):  # exact: as before it could be chosen
        backbone.pop("tf32", None)
    left_out = _NOT_DATASET | _IN_DIGEST
    dataset = {key: value for key, value in spec.dataset.items() if key not in left_out}
    if dataset.get("frequency_band") is None:  # drawn from all: as before there were bands
        dataset = {key: value for key, value in dataset.items() if key not in _OF_BAND}
    if not dataset.get("known_only"):  # as before anybody was asked what it knows
        dataset.pop("known_only", None)
    if dataset.get("module") == dataset.get("name"):  # as before modules were named
        dataset.pop("module", None)
    as_before = _AS_BEFORE.get(str(spec.method.get("module")), {}).items()
    return {
        "method": {
            key: value
            for key, value in spec.method.items()
            if key not in NO_SETTING and (key, value) not in as_before
        },
        "backbone": backbone,
        "dataset": dataset,
        "protocol": spec.protocol,
        "seed": spec.seed,
        "extra": dict(extra),
    }


def fingerprint(spec: TrialSpec, extra: Mapping[str, Any]) -> str:
    """SHA-256 of the identity of a trial, 64 hex digits; the first 16 are shown to people.

    Args:
        spec: The trial.
        extra: What the driver looks up before the start: `backbone_fingerprint`, `dataset_digest`,
            `method_version` and other versions that a number depends on.

    Raises:
        ValueError: If a value is NaN, infinite or not JSON.
    """
    return hashlib.sha256(canonical(identity_fields(spec, extra)).encode()).hexdigest()


def short(fingerprint: str) -> str:
    """The first 16 digits, for people."""
    return fingerprint[:16]


def _normal(value: Any) -> Any:
    """`value` with tuples as lists; what JSON has no form for is an error."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"keys must be strings: {sorted(map(repr, value))}")
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} has no place in an identity")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{type(value).__name__} is not JSON")
