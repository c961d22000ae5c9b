"""Makes a safetensors checkpoint of a GGUF file, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.backbones.checkpoints.checkpoint import DTYPES
from trainables.backbones.checkpoints.weight_files import WEIGHTS
from trainables.backbones.conversion.architectures import (
    EMBEDDING,
    HEAD,
    ROPE_FACTORS,
    architecture_of,
    config_of,
    scaling_of,
)
from trainables.backbones.conversion.header import SOURCE, Header, StoredTensor
from trainables.backbones.conversion.tensors import by_head, dequantised, unpaired
from trainables.backbones.conversion.tokenizers import write_tokenizer
from trainables.backbones.conversion.writing import write_tensors
from trainables.backbones.families import get_family
from trainables.backbones.silence import without_reports
from trainables.errors import BackboneError

# Llama 3's scaling of slow frequencies: what a file holds of it are the factors alone.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
Told = Callable[[int, int], None]  # numbers done, numbers in all


def convert(header: Header, dtype: str, folder: Path, source: dict[str, Any], told: Told) -> None:
    """Writes the checkpoint of a GGUF file into a folder that is there.

    Args:
        header: Of the file.
        dtype: Of all weights.
        folder: Where configuration, tokenizer, `source.json` and weights are put.
        source: What `source.json` shall say; it is part of the checkpoint's fingerprint.
        told: Of how far it has come.

    Raises:
        BackboneError: If a tensor is missing, too many, of another shape or beyond the range of
            `dtype`, or the tokenizer is not the file's.
    """
    # not closed here: an error that is under way still refers to parts of it
    data = np.memmap(header.path, np.uint8, "r")
    maker = _Maker(header, data, DTYPES[dtype], told)
    write_tokenizer(header, folder)
    maker.config.dtype = DTYPES[dtype]
    maker.config.save_pretrained(folder)
    (folder / SOURCE).write_text(json.dumps(source, indent=1) + "\n")
    shapes = {name: parameter.shape for name, parameter in maker.parameters.items()}
    write_tensors(folder / WEIGHTS, shapes, DTYPES[dtype], maker.made())


class _Maker:
    """The parameters of the model that a file holds, one after another."""

    def __init__(self, header: Header, data: Any, dtype: torch.dtype, told: Told) -> None:
        self._header, self._data, self._dtype, self._told = header, data, dtype, told
        self._label = f"backbone.model={header.path}"
        self._architecture = architecture_of(header)
        self.config = self._read_config()
        self._model = _empty(self.config, self._label)
        self.parameters = dict(self._model.named_parameters())
        self._names = self._find_names()
        self._check_shapes()

    def made(self) -> Iterator[Tensor]:
        """Every parameter, in the order of `parameters`."""
        num_done, num_all = 0, sum(each.numel() for each in self.parameters.values())

        def told(num_numbers: int) -> None:
            nonlocal num_done
            num_done += num_numbers
            self._told(num_done, num_all)

        for name in self.parameters:
            stored = self._header.tensors[self._names[name]]
            label = f"{self._label}: the tensor {self._names[name]!r}"
            if self._names[name].endswith("norm.weight") and self._architecture.norms == "plus_one":
                exact = dequantised(self._data, stored, torch.float32, label, told)
                yield (exact - 1).to(self._dtype)
            else:
                tensor = dequantised(self._data, stored, self._dtype, label, told)
                yield self._arranged(name, tensor)

    def _arranged(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor in the orientation and order of rows that the model has."""
        path, _, kind = self._names[name].rpartition(".")
        rows = self._architecture.rows.get(path.rpartition(".")[2])
        heads = int(self.config.num_attention_heads)
        if rows == "pairs":
            own = getattr(self.config, "num_key_value_heads", heads)
            tensor = unpaired(own if path.endswith("attn_k") else heads)(tensor)
        elif rows == "whole":
            tensor = by_head(heads)(tensor)
        return tensor.T if kind == "weight" and self._is_transposed(name) else tensor

    def _is_transposed(self, name: str) -> bool:
        """Whether the model stores a matrix (in, out)."""
        from transformers.pytorch_utils import Conv1D

        return isinstance(self._model.get_submodule(name.rpartition(".")[0]), Conv1D)

    def _read_config(self) -> Any:
        from transformers import AutoConfig

        family = get_family(self._architecture.family)
        values = config_of(self._header)
        theta, rotary_dim = values.pop("rope_theta", None), values.pop("rotary_dim", None)
        values["tie_word_embeddings"] = self._is_tied()
        try:
            config: Any = AutoConfig.for_model(family.name, **values)
        except (ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise BackboneError(f"{self._label}: describes no {family.name}: {reason}") from error
        if theta is not None:
            # by kind of attention, where that is not the same for all
            rotary = config.rope_parameters.get("full_attention", config.rope_parameters)
            rotary["rope_theta"] = theta
            if rotary_dim is not None:
                width = config.hidden_size // config.num_attention_heads
                rotary["partial_rotary_factor"] = rotary_dim / width
            rotary |= scaling_of(self._header) or self._llama3_scaling(config, theta)
        config.architectures = None
        return config

    def _is_tied(self) -> bool:
        """Whether the head is the embedding: it is not there, or there a second time."""
        head, embedding = (self._header.tensors.get(name) for name in (HEAD, EMBEDDING))
        if head is None or embedding is None:
            return True
        if (head.kind, head.shape) != (embedding.kind, embedding.shape):
            return False
        return bool(np.array_equal(self._bytes(head), self._bytes(embedding)))

    def _bytes(self, stored: StoredTensor) -> Any:
        return self._data[stored.begin : stored.begin + stored.num_bytes]

    def _llama3_scaling(self, config: Any, theta: float) -> dict[str, Any]:
        """The scaling that gives the factors which the file holds; nothing if it holds none."""
        stored = self._header.tensors.get(ROPE_FACTORS)
        if stored is None:
            return {}
        label = f"{self._label}: the tensor {ROPE_FACTORS!r}"
        factors = dequantised(self._data, stored, torch.float32, label, lambda _: None).double()
        scaling = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        due = _llama3_factors(theta, width, scaling)
        if factors.shape != due.shape or not torch.allclose(factors, due, rtol=1e-3):
            raise BackboneError(f"{label} scales positions in a way that is not known")
        return scaling

    def _find_names(self) -> dict[str, str]:
        """Name in the file of each parameter."""
        import gguf

        number = {name: each for each, name in gguf.MODEL_ARCH_NAMES.items()}
        table = gguf.get_tensor_name_map(
            number[self._header.architecture], int(self.config.num_hidden_layers)
        )
        prefix, endings = f"{self._model.base_model_prefix}.", (".weight", ".bias")
        found, stored = {}, self._header.tensors
        for name in self.parameters:
            named = [
                each
                for spelt in (name, name.removeprefix(prefix))
                if (each := table.get_name(spelt, try_suffixes=endings)) is not None
            ]
            if not named or named[0] not in stored:
                wanted = named[0] if named else name
                raise BackboneError(f"{self._label}: holds no tensor {wanted!r}")
            found[name] = named[0]
        ignored = {ROPE_FACTORS} | ({HEAD} if self.config.tie_word_embeddings else set())
        left = sorted(stored.keys() - set(found.values()) - ignored)
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise BackboneError(
                f"{self._label}: its tensor {left[0]!r}{more} has no place in a model of the "
                f"family {self._architecture.family}"
            )
        return found

    def _check_shapes(self) -> None:
        for name, parameter in self.parameters.items():
            stored = self._header.tensors[self._names[name]]
            due = tuple(parameter.shape)
            due = due[::-1] if len(due) == 2 and self._is_transposed(name) else due
            if stored.shape != due:
                raise BackboneError(
                    f"{self._label}: the tensor {self._names[name]!r} has the shape "
                    f"{stored.shape}; its metadata asks for {due}"
                )


def _empty(config: Any, label: str) -> nn.Module:
    """The model without values."""
    from transformers import AutoModelForCausalLM

    try:
        with without_reports(), torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise BackboneError(f"{label}: its metadata describes no model: {reason}") from error
    return model


def _llama3_factors(theta: float, width: int, scaling: dict[str, Any]) -> Tensor:
    """By how much each frequency is divided, as Llama 3.1 published it."""
    lengths = 2 * torch.pi * theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = (original / lengths - low) / (high - low)
    between = 1 / ((1 - share) / factor + share)
    long = torch.where(lengths > original / low, torch.full_like(lengths, factor), between)
    return torch.where(lengths < original / high, torch.ones_like(lengths), long)
