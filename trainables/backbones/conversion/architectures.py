"""What a GGUF file says of its model, in a config.json's words; from `search_spaces/gguf.yaml`.

No code names a kind of model. Nothing here loads torch: a plan reads it, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from trainables.backbones.conversion.header import Header
from trainables.errors import BackboneError

FILE = Path(__file__).resolve().parents[3] / "search_spaces" / "gguf.yaml"
EMBEDDING, HEAD, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
Rows = Literal["pairs", "whole"]
Norms = Literal["as_they_are", "plus_one"]
_LINEAR = "linear"


@dataclass(frozen=True)
class Architecture:
    """One block of the file; its comments say what stands in it."""

    family: str
    config: Mapping[str, Any]
    rows: Mapping[str, Rows] = field(default_factory=dict)
    norms: Norms = "as_they_are"
    too_terse: Mapping[str, int] = field(default_factory=dict)


@cache
def architectures() -> dict[str, Architecture]:
    """All that are read, by llama.cpp's name."""
    return {name: Architecture(**block) for name, block in yaml.safe_load(FILE.read_text()).items()}


def architecture_of(header: Header) -> Architecture:
    """The architecture of a file.

    Raises:
        BackboneError: If it is not one that is read.
    """
    known = architectures()
    if header.architecture not in known:
        raise BackboneError(
            f"backbone.model={header.path}: is a GGUF of the architecture "
            f"{header.architecture!r}, which is not read; read: {', '.join(known)}"
        )
    return known[header.architecture]


def shape_of(header: Header) -> dict[str, Any]:
    """Family and sizes for a plan, as `config.json` would say them.

    Raises:
        BackboneError: If the file is of a kind that is not read, or does not say its sizes.
    """
    family = architecture_of(header).family
    config_of(header)  # all that it has to say
    width = _number(header, "embedding_length")
    return {
        "family": family,
        "num_layers": _number(header, "block_count"),
        "hidden_size": width,
        "ffn_size": _number(header, "feed_forward_length", 4 * width),
        "num_parameters": header.num_parameters,
        "vocabulary_size": _embedding_rows(header),
    }


def config_of(header: Header) -> dict[str, Any]:
    """The values of a file's config.json, but for those of its rotary embedding.

    Raises:
        BackboneError: If one is missing, or the file asks for something that cannot be obeyed.
    """
    _check_plain(header)
    made: dict[str, Any] = {}
    for key, stated in architecture_of(header).config.items():
        name, *otherwise = stated if isinstance(stated, list) else [stated]
        value = _value(header, name)
        for other in otherwise:
            if value is None:
                value = _value(header, other) if isinstance(other, str) else other
        if value is None and otherwise != [None]:
            raise BackboneError(
                f"backbone.model={header.path}: does not say {header.architecture}.{name}"
            )
        if value is not None:
            made[key] = value
    made["vocab_size"] = _embedding_rows(header)
    for mark in ("bos", "eos", "padding"):
        found = header.values.get(f"tokenizer.ggml.{mark}_token_id")
        made[f"{mark.removesuffix('ding')}_token_id"] = found
    return made


def scaling_of(header: Header) -> dict[str, Any]:
    """How the positions of the rotary embedding are scaled: nothing for most."""
    if _value(header, "rope.scaling.type") != _LINEAR:
        return {}
    return {"rope_type": _LINEAR, "factor": float(_value(header, "rope.scaling.factor"))}


def _check_plain(header: Header) -> None:
    """Raises BackboneError for what would be left out in silence."""
    label = f"backbone.model={header.path}"
    if _value(header, "expert_count"):
        raise BackboneError(f"{label}: its FFN is a mixture of experts, which is not edited here")
    scaling = _value(header, "rope.scaling.type")
    if scaling not in (None, "none", _LINEAR):
        raise BackboneError(f"{label}: its rope.scaling.type={scaling} is not read; read: linear")
    for key, value in architecture_of(header).too_terse.items():
        if _value(header, key) == value:
            raise BackboneError(
                f"{label}: a {header.architecture} of {key} {value} has a setting that its GGUF "
                "does not hold; use the checkpoint"
            )
    window, positions = _value(header, "attention.sliding_window"), _value(header, "context_length")
    is_read = "sliding_window" in architecture_of(header).config
    if window and positions and window < positions and not is_read:
        raise BackboneError(f"{label}: its attention.sliding_window={window} is not read")


def _value(header: Header, name: str) -> Any:
    return header.values.get(f"{header.architecture}.{name}")


def _number(header: Header, name: str, otherwise: int | None = None) -> int:
    value = _value(header, name)
    value = otherwise if value is None else value
    if not isinstance(value, int) or value < 1:
        raise BackboneError(
            f"backbone.model={header.path}: {header.architecture}.{name} is {value!r}; "
            "must be a whole number of at least 1"
        )
    return value


def _embedding_rows(header: Header) -> int:
    if EMBEDDING not in header.tensors:
        raise BackboneError(f"backbone.model={header.path}: holds no tensor {EMBEDDING!r}")
    shape = header.tensors[EMBEDDING].shape
    return math.prod(shape[:-1])
