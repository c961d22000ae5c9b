"""What is taken of ordinary text, through the store: second moments of keys, contexts of prompts.

All trials of a backbone share both, and so do the methods that ask for the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import (
    different_passages,
    kept_passages,
    passage_batches,
    second_moments,
)
from trainables.backbones.hidden_states.sampled_text import sampled_contexts, sampled_passages
from trainables.errors import ConfigError
from trainables.interfaces import Json, State

_CONTEXT_SEED = 0
_PASSAGE_SEED = 0
_PREFIX_OPENINGS = ("I", "You", "Because", "Yes", "Q:")
_PREFIX_LENGTHS = (5, 10)
_PREFIX_SEED = 0


@dataclass(frozen=True)
class Moments:
    """Second moments of some layers.

    Attributes:
        of_layer: C = E[k k^T] of each layer, (F, F) float32, in host memory.
        is_sampled: Whether the backbone sampled the text, for want of another.
        inputs: All that they depend on, the layer apart: of the key of what is made of them.
    """

    of_layer: Mapping[int, Tensor]
    is_sampled: bool
    inputs: Mapping[str, Json]


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of C, ascending, (F,), and its eigenvectors, the columns of (F, F); float32.

    In host memory.
    """

    values: Tensor
    vectors: Tensor


def check_text(path: str | None) -> None:
    """Refuse a `covariance_text` that is no file.

    Raises:
        ConfigError: If it is not.
    """
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"method.covariance_text is {path!r}; there is no such file")


def stored_moments(
    split: Split,
    artefacts: Artefacts,
    layers: Sequence[int],
    tokens_per_dim: int,
    path: str | None,
) -> Moments:
    """C of each layer; one pass over the text builds all that are not stored.

    Args:
        split: The pristine backbone.
        artefacts: The store.
        layers: Decoder layers.
        tokens_per_dim: Tokens of text for each key dimension.
        path: Text file, one passage a line; None: the checkpoint's own text, or one that the
            backbone samples.

    Raises:
        DataError: If the file holds no text.
    """
    backbone = split.backbone
    num_tokens = tokens_per_dim * backbone.ffn_size
    kept = kept_passages(path, backbone)
    source, texts = kept or ("sampled", _stored_passages(split, artefacts, num_tokens))
    built: dict[int, Tensor] = {}

    def build(layer: int) -> State:
        if not built:
            batches = passage_batches(backbone, texts, num_tokens)
            built.update(second_moments(backbone, layers, batches))
        return State({"moment": built[layer]})

    inputs = backbone.identity | {
        "source": source,
        "text": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        "num_tokens": num_tokens,
    }
    found = {
        layer: artefacts.get("covariance", inputs | {"layer": layer}, partial(build, layer))
        for layer in layers
    }
    moments = {layer: state.tensors["moment"] for layer, state in found.items()}
    return Moments(moments, source == "sampled", inputs)


def stored_spectra(artefacts: Artefacts, moments: Moments) -> dict[int, Spectrum]:
    """The eigenvalues and eigenvectors of each C, taken in float64."""

    def build(layer: int) -> State:
        values, vectors = torch.linalg.eigh(moments.of_layer[layer].double())
        # Rounding leaves a matrix of few tokens with eigenvalues a little below 0.
        return State({"values": values.clamp_min(0).float(), "vectors": vectors.float()})

    spectra = {}
    for layer in moments.of_layer:
        inputs = {**moments.inputs, "layer": layer}
        found = artefacts.get("spectrum", inputs, partial(build, layer)).tensors
        spectra[layer] = Spectrum(found["values"], found["vectors"])
    return spectra


def _stored_passages(split: Split, artefacts: Artefacts, num_tokens: int) -> list[str]:
    inputs = split.backbone.identity | {"num_tokens": num_tokens, "seed": _PASSAGE_SEED}

    def build() -> State:
        texts: list[Json] = [*sampled_passages(split, num_tokens, _PASSAGE_SEED)]
        return State(values={"texts": texts})

    texts: Any = artefacts.get("passages", inputs, build).values["texts"]
    return different_passages(texts)


def stored_contexts(split: Split, artefacts: Artefacts, count: int, length: int) -> tuple[str, ...]:
    """`count` prefixes of `length` tokens that the pristine backbone samples with a fixed seed."""
    if not count:
        return ()
    inputs = split.backbone.identity | {"count": count, "length": length, "seed": _CONTEXT_SEED}

    def build() -> State:
        texts: list[Json] = [*sampled_contexts(split, count, length, _CONTEXT_SEED)]
        return State(values={"texts": texts})

    texts: Any = artefacts.get("contexts", inputs, build).values["texts"]
    return tuple(texts)


def stored_prefixes(split: Split, artefacts: Artefacts) -> tuple[str, ...]:
    """What WISE and its relatives put in front of an edit: ten prefixes of the pristine backbone.

    Two lengths behind each of five openings, sampled with a fixed seed.
    """
    inputs = split.backbone.identity | {
        "openings": [*_PREFIX_OPENINGS],
        "lengths": [*_PREFIX_LENGTHS],
        "seed": _PREFIX_SEED,
    }

    def build() -> State:
        texts: list[Json] = []
        for length in _PREFIX_LENGTHS:
            count = len(_PREFIX_OPENINGS)
            texts += sampled_contexts(split, count, length, _PREFIX_SEED, _PREFIX_OPENINGS)
        return State(values={"texts": texts})

    texts: Any = artefacts.get("prefixes", inputs, build).values["texts"]
    return tuple(texts)
