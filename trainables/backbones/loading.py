"""Load a model and its tokenizer: dtype, revision and device in one place.

Only safetensors are read and remote code is never run: a pickled checkpoint can execute anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from trainables.backbones.families import get_family
from trainables.backbones.sharding import device_map
from trainables.errors import BackboneError
from trainables.interfaces import Backbone, Family

Dtype = Literal["float32", "bfloat16", "float16"]
# Files of a checkpoint's folder that decide its answers, and those among them that do not: notes of
# the trainer of embedded backbones, and the fingerprint itself.
_OF_CHECKPOINT = ("*.safetensors", "*.json", "*.txt", "tokenizer*")
_KEPT = "fingerprint.json"
_NOTES = {_KEPT, "known.json", "recipe.json", "report.json"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_backbone(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: Dtype = "float32",
    home_layers: Collection[int] | None = None,
) -> Backbone:
    """A frozen backbone in evaluation mode, on the GPU when there is one.

    Args:
        model: Folder written by `save_pretrained`, or a model id of the hub.
        revision: Commit of a model id; ignored for a folder.
        dtype: Of all weights.
        home_layers: Layers that stay with the embedding on the first GPU while the others are
            spread over all GPUs of the process; None: everything on one.

    Raises:
        BackboneError: If the folder or id is missing, has no safetensors, or is of another family.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if dtype not in _DTYPES:
        raise BackboneError(f"backbone.dtype is {dtype!r}; allowed: {', '.join(_DTYPES)}")
    folder = Path(model)
    if folder.is_dir():
        _check_folder(folder)
    source = str(model)
    pinned: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **pinned)
        family = get_family(config.model_type)
        with without_bars():
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=_DTYPES[dtype],
                use_safetensors=True,
                device_map=_spread(config, family, home_layers),
                **pinned,
            )
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **pinned)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"backbone.model {source!r} cannot be loaded: {reason}") from error
    if torch.cuda.is_available() and not _is_spread(home_layers):
        torch.nn.Module.cuda(loaded)
    loaded.requires_grad_(False)
    loaded.eval()
    up = loaded.get_parameter(f"{family.layers}.0.{family.up}.weight")
    return Backbone(
        model=loaded,
        tokenizer=tokenizer,
        family=family,
        fingerprint=fingerprint(folder)
        if folder.is_dir()
        else _loaded_fingerprint(loaded, tokenizer),
        num_layers=int(config.num_hidden_layers),
        hidden_size=loaded.get_parameter(f"{family.embedding}.weight").shape[1],
        ffn_size=up.shape[1] if family.is_transposed else up.shape[0],
        folder=folder if folder.is_dir() else None,
        # GPT-2 calls it n_positions, which its configuration maps; Bloom has none
        max_positions=getattr(config, "max_position_embeddings", None),
    )


def _is_spread(home_layers: Collection[int] | None) -> bool:
    return home_layers is not None and torch.cuda.device_count() > 1


def _spread(
    config: Any, family: Family, home_layers: Collection[int] | None
) -> dict[str, int] | None:
    """Device of each part over the GPUs there are; None where one holds all."""
    from transformers import AutoModelForCausalLM

    if home_layers is None or not _is_spread(home_layers):
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return device_map(model, family, home_layers, torch.cuda.device_count())


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Inside, transformers draws no progress bars of its own into a command's output."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def fingerprint(folder: Path) -> str:
    """SHA-256 of all that decides what a checkpoint answers, kept beside it once computed.

    Weights, tokenizer and configuration count, and the training text that covariances are taken
    from. The kept value is believed only while size and time of every file are those it was made
    from.

    Raises:
        BackboneError: If the folder is no checkpoint, or its index names weights elsewhere.
    """
    _check_folder(folder)
    found = {file for pattern in _OF_CHECKPOINT for file in folder.glob(pattern)}
    files = sorted(file for file in found if file.name not in _NOTES)
    stamp = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    kept = folder / _KEPT
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not there, or half of it
        values = json.loads(kept.read_text())
        if values["files"] == stamp:
            return str(values["sha256"])
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    with contextlib.suppress(OSError):  # a read-only checkpoint is hashed anew each time
        kept.write_text(json.dumps({"sha256": digest.hexdigest(), "files": stamp}))
    return digest.hexdigest()


def _loaded_fingerprint(model: Any, tokenizer: Any) -> str:
    """SHA-256 over configuration, tokenizer and weights of a model from the hub's cache."""
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_folder(folder: Path) -> None:
    """Raises BackboneError for what is no checkpoint, or one with weights that lie elsewhere."""
    if not (folder / "config.json").is_file():
        raise BackboneError(f"backbone.model {str(folder)!r} has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise BackboneError(
            f"backbone.model {str(folder)!r} holds no *.safetensors; pickled weights are not read"
        )
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise BackboneError(f"backbone.model: {index} is no index of weights") from error
        for name in names:
            # transformers would open any path: one outside is in no fingerprint
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise BackboneError(
                    f"backbone.model: {index} names {name!r}; "
                    "weights must be *.safetensors in the folder itself"
                )
            if not (folder / name).is_file():
                raise BackboneError(f"backbone.model: {index} names {name}, which is not there")
