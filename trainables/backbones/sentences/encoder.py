"""Reads texts with the sentence encoder: a BERT, whose outputs are averaged and scaled to length 1.

Source: Reimers and Gurevych, "Sentence-BERT" (arXiv:1908.10084), Section 3: mean pooling; the
checkpoint's own files say that it is what this one was trained with. Nothing of its package runs:
weights (safetensors), configuration and vocabulary are read out of one zip file.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from trainables.errors import BackboneError

_MOST_KEPT = 50_000  # texts whose embeddings stay in memory: 75 MB of 384 numbers each
_NOT_READ = ("pooler.", "embeddings.position_ids")  # weights behind the outputs, and a constant


class SentenceEncoder:
    """Embeds texts, one at a time and on the CPU.

    So a text's numbers depend on no neighbour and on no GPU, and an embedding that is kept is
    the one that would be computed again.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, max_tokens: int) -> None:
        """Take a BERT and its `tokenizers.Tokenizer`.

        Args:
            model: Maps `input_ids` (1, T) to `last_hidden_state` (1, T, D).
            tokenizer: Neither cuts nor pads from now on, but for `max_tokens`.
            max_tokens: Of a text, marks in front and behind included; the rest is cut.
        """
        tokenizer.no_padding()  # its file may ask for rows of 128, whose mean would be another
        tokenizer.enable_truncation(max_tokens)
        self._model = model.eval().requires_grad_(requires_grad=False)
        self._tokenizer = tokenizer
        self._kept: LRUCache[str, Tensor] = LRUCache(_MOST_KEPT)

    @property
    def size(self) -> int:
        """Numbers of an embedding, D."""
        return int(self._model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def num_bytes(self) -> int:
        """Of the weights."""
        return sum(parameter.nbytes for parameter in self._model.parameters())

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) float32 of length 1, on the CPU."""
        return torch.stack([self._embedding(text) for text in texts])

    def _embedding(self, text: str) -> Tensor:
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = self._computed(text)
        return found

    @torch.no_grad()
    def _computed(self, text: str) -> Tensor:
        ids = torch.tensor([self._tokenizer.encode(text).ids])
        states: Tensor = self._model(input_ids=ids).last_hidden_state[0]  # no padding: all count
        return nn.functional.normalize(states.float().mean(0), dim=0)


def read_encoder(path: Path, max_tokens: int) -> SentenceEncoder:
    """The encoder in a zip file with `config.json`, `model.safetensors` and `tokenizer.json`.

    Raises:
        BackboneError: If one of them is missing or broken, or it is no BERT.
    """
    from tokenizers import Tokenizer

    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            weights = load(archive.read("model.safetensors"))
            tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
    except KeyError as error:
        raise BackboneError(f"{path}: {error.args[0]}") from error
    except (zipfile.BadZipFile, SafetensorError, ValueError) as error:
        raise BackboneError(f"{path}: is broken: {error}") from error
    if config.get("model_type") != "bert":
        raise BackboneError(f"{path}: is a {config.get('model_type')}; only a bert is read")
    return SentenceEncoder(_model(config, weights, path), tokenizer, max_tokens)


def _model(config: dict[str, Any], weights: dict[str, Tensor], path: Path) -> nn.Module:
    from transformers import BertConfig, BertModel  # a second: not for a method without it

    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and thrown away
        model = BertModel(BertConfig.from_dict(config), add_pooling_layer=False)
    wanted = {key: value for key, value in weights.items() if not key.startswith(_NOT_READ)}
    try:
        model.load_state_dict(wanted)
    except RuntimeError as error:
        raise BackboneError(
            f"{path}: its weights do not fit: {' '.join(str(error).split())[:200]}"
        ) from error
    return model.float()
