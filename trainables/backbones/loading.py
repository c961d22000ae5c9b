"""Load a model and its tokenizer: dtype, revision and device in one place.

Only safetensors are read and remote code is never run: a pickled checkpoint can execute anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch

from trainables.backbones.checkpoints.checkpoint import DTYPES, examine
from trainables.backbones.checkpoints.hub import checkpoint_folder
from trainables.backbones.checkpoints.weight_check import check_told, read_config
from trainables.backbones.checkpoints.weight_files import stored_tensors
from trainables.backbones.conversion.prepared import converted, needs_conversion
from trainables.backbones.families import get_family
from trainables.backbones.sharding import device_map
from trainables.backbones.silence import without_reports
from trainables.backbones.tokenizer import load_tokenizer
from trainables.cache import default_cache
from trainables.errors import BackboneError
from trainables.interfaces import Backbone, Family
from trainables.spec import BackboneSpec

Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]


def load_backbone(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: Dtype = "float32",
    home_layers: Collection[int] | None = None,
    beside_gib: float = 0.0,
    cache: Path | None = None,
    device: Device | None = None,
    tf32: bool = False,
) -> Backbone:
    """A frozen backbone in evaluation mode.

    Args:
        model: Folder written by `save_pretrained`, GGUF file, or a model id of the hub.
        revision: Commit of a model id; ignored for a folder.
        dtype: Of all weights.
        home_layers: Layers that stay with the embedding on the first GPU while the others are
            spread over all GPUs of the process; None: everything on one.
        beside_gib: What a method makes beside those layers, 2**30 bytes.
        cache: Where it is kept that the checkpoint is whole; None: found out anew, and what a GGUF
            file is converted to is kept in the user's cache.
        device: Where it lies; None: on the GPU when there is one.
        tf32: Whether a GPU rounds the factors of float32 products to 10 bits, which is faster;
            from now on in this process.

    Raises:
        BackboneError: If the folder or id is missing, its checkpoint is not whole or of another
            family, or a weight is beyond the range of `dtype`.
    """
    device = device or usable_device()
    wanted = BackboneSpec("", str(model), dtype)
    if needs_conversion(wanted):
        model = converted(wanted, cache or default_cache())
    folder = checkpoint_folder(str(model), revision)
    whole = examine(folder, cache)
    whole.check_range(folder, dtype)
    config = read_config(folder)
    family = get_family(config.model_type)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    places = None if device == "cpu" else _places(config, family, home_layers, beside_gib)
    loaded = _loaded(folder, config, DTYPES[dtype], places)
    tokenizer = load_tokenizer(folder)
    loaded.requires_grad_(False)
    loaded.eval()
    down = loaded.get_parameter(f"{family.layers}.0.{family.down}.weight")
    return Backbone(
        model=loaded,
        tokenizer=tokenizer,
        family=family,
        fingerprint=whole.name_of_answers,
        num_layers=int(config.num_hidden_layers),
        hidden_size=loaded.get_parameter(f"{family.embedding}.weight").shape[1],
        ffn_size=down.shape[0] if family.is_transposed else down.shape[1],
        folder=folder,
        tf32=tf32,
        max_positions=next(
            (found for key in family.max_positions if (found := getattr(config, key, None))), None
        ),
    )


def _loaded(folder: Path, config: Any, dtype: torch.dtype, places: dict[str, int] | None) -> Any:
    """The model with its weights, each read straight to its place; None: host memory.

    They are handed over tensor by tensor: told of a folder, transformers also takes up an adapter
    that lies there, where the package for that is installed.
    """
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        asked: Any = type(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    try:
        with contextlib.ExitStack() as files, without_reports():
            stored = stored_tensors(folder)
            opened = {
                path: files.enter_context(safe_open(path, framework="pt"))
                for path in {tensor.file for tensor in stored.values()}
            }
            loaded, told = asked.from_pretrained(
                None,
                config=config,
                state_dict={
                    name: opened[tensor.file].get_slice(name) for name, tensor in stored.items()
                },
                dtype=dtype,
                device_map=places,
                ignore_mismatched_sizes=True,  # so that they are told, not raised
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise BackboneError(f"backbone.model={folder} cannot be loaded: {reason}") from error
    check_told(folder, config, told)
    return loaded


def usable_device() -> Device:
    """The GPU where torch can use one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def assigned_device(num_gpus: int) -> Device:
    """Where a worker process computes that was given so many GPUs, and no more than it was given.

    One that was given none may still see all of them: without this they would all meet on the first
    one, which is another trial's.
    """
    if num_gpus:
        return usable_device()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a library might look for a GPU by itself
    return "cpu"


def _places(
    config: Any, family: Family, home_layers: Collection[int] | None, beside_gib: float
) -> dict[str, int]:
    """The GPU of each part, by its name: the first one for all, or over all GPUs there are."""
    from transformers import AutoModelForCausalLM

    if home_layers is None or torch.cuda.device_count() < 2:
        return {"": 0}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return device_map(model, family, home_layers, torch.cuda.device_count(), beside_gib * 2**30)
