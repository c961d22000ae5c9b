"""Checks that the tensors of a checkpoint are those that its config.json asks for.

transformers itself is asked, because only it knows how it renames, ties and leaves out weights. It
gets tensors that have a shape but no values, so that no weights are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.backbones.checkpoints.config_check import why_unfit, why_unknown
from trainables.backbones.checkpoints.weight_files import (
    DTYPES,
    INDEX,
    WEIGHTS,
    Stored,
    stored_tensors,
)
from trainables.backbones.families import get_family, known_families
from trainables.backbones.silence import without_reports
from trainables.errors import BackboneError

# Buffers that checkpoints of years ago hold and the models of today compute: the mask of GPT-2 and
# GPT-J, and the value that it puts in.
_OUTDATED = re.compile(r"(^|\.)attn\.(masked_)?bias$")
_QUANTISED = ("quantization_config", "compression_config")
# What transformers raises of a config.json that describes no model.
_UNBUILDABLE = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError)


@dataclass(frozen=True)
class Weights:
    """What a whole checkpoint holds.

    Attributes:
        stored: Every tensor of its files.
        parameters: Those of them that are parameters of the model.
        num_embeddings: Rows of the input embedding.
    """

    stored: Mapping[str, Stored]
    parameters: Mapping[str, Stored]
    num_embeddings: int


def read_config(folder: Path) -> Any:
    """The configuration of a checkpoint whose weights are stored as they are.

    Raises:
        BackboneError: If config.json is missing, describes no model, or a quantised one.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    label, file = f"backbone.model={folder}", folder / "config.json"
    if not file.is_file():
        raise BackboneError(f"{label}: has no config.json")
    try:
        values = json.loads(file.read_text("utf-8"))
        model_type = str(values["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{label}: config.json is no configuration of a model") from error
    unknown = why_unknown(values, known_families())
    if reason := unknown or why_unfit(values, dict(get_family(model_type).requires)):
        raise BackboneError(f"{label}: {reason}")
    for key in _QUANTISED:
        if values.get(key):
            kind = values[key].get("quant_method") if isinstance(values[key], dict) else None
            raise BackboneError(
                f"{label}: config.json has {key} ({kind or 'of no kind named'}); edits need "
                "weights that are not quantised"
            )
    if values.get("transformers_weights"):  # names another file than the fingerprint covers
        raise BackboneError(f"{label}: config.json has transformers_weights; use {WEIGHTS}")
    try:
        with without_reports():
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, StrictDataclassError, *_UNBUILDABLE) as error:
        raise BackboneError(f"{label}: config.json: {_line(error)}") from error


def check_weights(folder: Path, config: Any) -> Weights:
    """The tensors of a checkpoint, one for each that `config` asks for and no others.

    Raises:
        BackboneError: Naming a file and a tensor.
    """
    from transformers import AutoModelForCausalLM

    stored = stored_tensors(folder)
    empty = {
        name: torch.empty(tensor.shape, dtype=DTYPES.get(tensor.dtype), device="meta")
        for name, tensor in stored.items()
    }
    try:
        with without_reports():
            with torch.device("meta"):
                asked: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            _, told = type(asked).from_pretrained(
                None,
                config=config,
                state_dict=empty,
                device_map={"": "meta"},
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # so that they are told, not raised
                output_loading_info=True,
            )
    except _UNBUILDABLE as error:
        raise BackboneError(f"backbone.model={folder}: config.json: {_line(error)}") from error
    check_told(folder, config, told)
    named = {name for name, _ in asked.named_parameters(remove_duplicate=False)}
    prefix = f"{asked.base_model_prefix}."
    full = {name: name if name in named else prefix + name for name in stored}
    parameters = {
        name: tensor
        for name, tensor in stored.items()
        # A matrix under another name is renamed on its way in, as GPT-NeoX's head.
        if full[name] in named or len(tensor.shape) == 2
    }
    for name, tensor in parameters.items():
        if tensor.dtype not in DTYPES:
            raise BackboneError(
                f"backbone.model={folder}: the tensor {name!r} in {tensor.file.name} is stored as "
                f"{tensor.dtype}; edits need weights that are not quantised"
            )
    by_full = {full[name]: tensor for name, tensor in parameters.items()}
    _check_tied(folder, asked.all_tied_weights_keys, by_full)
    return Weights(stored, parameters, int(asked.get_input_embeddings().weight.shape[0]))


def check_told(folder: Path, config: Any, told: Mapping[str, Iterable[Any]]) -> None:
    """Refuse a checkpoint that, as transformers reports, does not fit its configuration.

    Args:
        folder: The checkpoint.
        config: Its configuration.
        told: `missing_keys`, `unexpected_keys` and `mismatched_keys` of `output_loading_info`.

    Raises:
        BackboneError: Naming the first tensor that is wrong, and how many more are.
    """
    layers, depth = get_family(config.model_type).layers, int(config.num_hidden_layers)
    label, asks = f"backbone.model={folder}", f"config.json asks for {depth} layers"

    def layer(name: str) -> int | None:
        found = re.match(rf"(?:{re.escape(layers)}|{layers.rpartition('.')[2]})\.(\d+)\.", name)
        return int(found[1]) if found else None

    mismatched = sorted((str(name), found, due) for name, found, due in told["mismatched_keys"])
    if mismatched:
        name, found, due = mismatched[0]
        raise BackboneError(
            f"{label}: the tensor {name!r} in {_file_of(folder, name)} has the shape "
            f"{tuple(found)}; config.json asks for {tuple(due)}{_more(mismatched)}"
        )
    missing = _sorted(told["missing_keys"])
    if missing:
        number = layer(missing[0])
        reason = "config.json asks for it" if number is None or len(missing) == 1 else asks
        raise BackboneError(
            f"{label}: {_file_of(folder, missing[0])} holds no tensor {missing[0]!r}"
            f"{_more(missing)}; {reason}"
        )
    unexpected = _sorted(name for name in told["unexpected_keys"] if not _OUTDATED.search(name))
    if unexpected:
        number = layer(unexpected[0])
        reason = "config.json has no place for it" if number is None or number < depth else asks
        raise BackboneError(
            f"{label}: {_file_of(folder, unexpected[0])} holds the tensor {unexpected[0]!r}"
            f"{_more(unexpected)}; {reason}"
        )


def _check_tied(folder: Path, tied: Mapping[str, str], stored: Mapping[str, Stored]) -> None:
    """Raises BackboneError for two weights that are to be one, and are stored with other values."""
    for target, source in tied.items():
        if target not in stored or source not in stored:
            continue
        if not _are_equal(stored[target], stored[source]):
            raise BackboneError(
                f"backbone.model={folder}: the tensors {target!r} and {source!r} in "
                f"{stored[target].file.name} differ, and config.json has tie_word_embeddings=true"
            )


def _are_equal(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.begin)
        second.seek(other.begin)
        left = one.end - one.begin
        while left > 0:
            length = min(left, 1 << 20)
            if first.read(length) != second.read(length):
                return False
            left -= length
    return True


def _file_of(folder: Path, name: str) -> str:
    """The file that holds a tensor, or that the index says would."""
    if (folder / WEIGHTS).is_file():
        return WEIGHTS
    places: dict[str, str] = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    short = name.partition(".")[2]  # of a checkpoint of the model without its head
    for known in (name, short):
        if known in places:
            return places[known]
    held = {known: tensor.file.name for known, tensor in stored_tensors(folder).items()}
    return held.get(name) or held.get(short) or INDEX


def _sorted(names: Iterable[str]) -> list[str]:
    """By layer, as a person counts."""

    def parts(name: str) -> list[tuple[bool, int, str]]:
        words = name.split(".")
        return [(w.isdigit(), int(w) if w.isdigit() else 0, w) for w in words]

    return sorted(names, key=parts)


def _more(names: list[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _line(error: BaseException) -> str:
    """An error's message in one line."""
    words = " ".join(str(error).split())
    return words or type(error).__name__
