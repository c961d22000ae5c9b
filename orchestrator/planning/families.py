"""Reads what a plan must know about a model family, from `search_spaces/family/<name>.yaml`.

`trainables/backbones/families.py` reads the same files for the paths of modules. Neither package
may import the other, so each has a small reader of its own: one file, no list kept twice.

They are read from the project's own folder, whatever folder of search spaces a plan is made from:
a family says how the code reaches into a model, which no experiment chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

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
        num_ffn_matrices: Number of hidden_size x ffn_size matrices: up, down and perhaps a gate.
    """

    num_layers: tuple[str, ...]
    hidden_size: tuple[str, ...]
    ffn_size: tuple[str, ...]
    num_ffn_matrices: int


@cache
def known_families() -> tuple[str, ...]:
    """Names of all families that have a file, sorted."""
    return SearchSpaces().names(_GROUP)


@cache
def get_family(name: str) -> Family:
    """The family with a file of that name.

    Raises:
        UsageError: If there is none, or its `config` lacks a key.
    """
    values = SearchSpaces().load(_GROUP, name)
    try:
        depth, width, ffn = (
            tuple(values["config"][key]) for key in ("num_layers", "hidden_size", "ffn_size")
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"family/{name}.yaml: config.{error.args[0]} is missing") from error
    return Family(depth, width, ffn, num_ffn_matrices=3 if values.get("gate") else 2)
