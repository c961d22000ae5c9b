"""Reads what a plan must know about a model family, from `search_spaces/family/<name>.yaml`.

`trainables/backbones/families.py` reads the same files for the paths of modules. It loads torch,
which a plan must do without, so each has a small reader of its own: one file, no list kept twice.

They are read from the project's own folder, whatever folder of search spaces a plan is made from:
a family says how the code reaches into a model, which no experiment chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.settings.yaml_files import SearchSpaces

_GROUP = "family"


@dataclass(frozen=True)
class Family:
    """Where a family's config.json states its sizes, and how many matrices its FFN has.

    Attributes:
        num_layers: Keys of config.json; the first one present is read.
        hidden_size: Keys, as for `num_layers`.
        ffn_size: Keys, as for `num_layers`; if none is present, the FFN is four times as wide as
            the stream.
        num_ffn_matrices: Number of hidden_size x ffn_size matrices: up, down and perhaps a gate,
            which may lie in one weight with up.
        requires: What config.json must say, where it has the key.
    """

    num_layers: tuple[str, ...]
    hidden_size: tuple[str, ...]
    ffn_size: tuple[str, ...]
    num_ffn_matrices: int
    requires: Mapping[str, Any] = field(default_factory=dict)


@cache
def known_families() -> tuple[str, ...]:
    """Names of all families that have a file, sorted."""
    return SearchSpaces().names(_GROUP)


@cache
def get_family(name: str) -> Family:
    """The family with a file of that name.

    Raises:
        UsageError: If there is none, or its `config` lacks a key or has something else there.
    """
    values = SearchSpaces().load(_GROUP, name)
    depth, width, ffn = (
        _keys(name, values, size) for size in ("num_layers", "hidden_size", "ffn_size")
    )
    matrices = 3 if values.get("gate") else 2
    return Family(depth, width, ffn, matrices, requires=values.get("requires") or {})


def _keys(name: str, values: Mapping[str, Any], size: str) -> tuple[str, ...]:
    """The keys of config.json under which a size may stand."""
    config = values.get("config")
    keys = config.get(size) if isinstance(config, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UsageError(
            f"family/{name}.yaml: config.{size}={keys}: must be a list of keys of config.json"
        )
    return tuple(keys)
