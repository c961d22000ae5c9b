"""Reads the shape of a backbone from its YAML, or from the config.json of a local folder."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.automatic import AUTO, automatic_dtype, cpu_flags
from orchestrator.planning.families import get_family, known_families
from trainables.backbones.checkpoints.config_check import why_unfit, why_unknown
from trainables.backbones.conversion.architectures import shape_of
from trainables.backbones.conversion.header import SUFFIX, gguf_file, read_header
from trainables.errors import BackboneError

EMBEDDED = "embedded:"  # prefix of a model that is trained here on first use
PACKAGED = "packaged:"  # prefix of a model that is fetched in a wheel on first use
DTYPES = ("float32", "bfloat16", "float16")
SHAPE = ("num_layers", "hidden_size", "ffn_size")
# Kept when another folder takes the place of the YAML's model; all else describes that model.
_KEPT = ("name", "model", "revision", "dtype", "tf32")
_MOST_HEADER_BYTES = 100 * 2**20  # safetensors' own limit


def read_backbone(
    backbone: dict[str, Any], origins: Mapping[str, Any], is_embedded: bool
) -> dict[str, Any]:
    """Completes `backbone` in place and returns the origins that changed.

    For a model that is a folder, its own shape and memory need replace those of the YAML, unless
    the shapes are equal.

    Args:
        backbone: The YAML with all overrides.
        origins: Source of each of its values, by dotted key.
        is_embedded: Whether this project trains the model that the YAML names.

    Raises:
        UsageError: For a folder that is not a safe checkpoint, a broken GGUF file, another model
            id without its revision, or a dtype or family that is not known.
    """
    if backbone.get("dtype", "float32") not in (*DTYPES, AUTO):
        allowed = ", ".join((*DTYPES, AUTO))
        raise UsageError(f"backbone.dtype={backbone['dtype']}: allowed: {allowed}")
    changed: dict[str, Any] = {}
    typed = backbone.get("model")
    source = origins.get("backbone.model")
    is_typed = source is not None and not source.source.startswith("backbone ")
    if typed is not None and (is_path(str(typed)) or Path(str(typed)).is_dir()):
        folder = Path(str(typed)).expanduser().absolute()
        shape = _read_gguf(folder) or read_shape(folder, str(typed))
        backbone.pop("package", None)
        backbone.pop("dequantised_from", None)
        if is_embedded or any(backbone.get(key) != shape[key] for key in ("family", *SHAPE)):
            # another model than the YAML's: neither its name nor its memory need, and no preset
            for key in set(backbone) - set(_KEPT):
                del backbone[key]
            backbone["name"] = folder.name
        backbone.update(shape, model=str(folder), revision=None)
        says = folder.name if "dequantised_from" in shape else f"{folder.name}/config.json"
        changed = {f"backbone.{key}": type(source)(says) for key in shape} if source else {}
    elif typed is not None and not str(typed).startswith((EMBEDDED, PACKAGED)):
        if is_embedded:
            raise UsageError(
                f"backbone.model={typed}: there is no such folder; "
                "for a model id also choose its backbone=NAME"
            )
        revision = origins.get("backbone.revision")
        is_own = revision is None or revision.source.startswith("backbone ")
        is_given = revision is not None and not is_own
        if (is_typed and is_own) or (is_given and not backbone.get("revision")):
            raise UsageError(
                f"backbone.model={typed}: needs revision: add its backbone.revision=COMMIT, "
                "so that it is pinned"
            )
    _check_family(backbone)
    for key in SHAPE:
        if not isinstance(backbone.get(key), int) or backbone[key] < 1:
            raise UsageError(
                f"backbone.{key}={backbone.get(key)}: must be a whole number of at least 1"
            )
    if backbone.get("dtype") == AUTO:
        backbone["dtype"], why = automatic_dtype(backbone["hidden_size"], cpu_flags())
        if source:
            changed["backbone.dtype"] = type(source)(f"auto: {why}")
    return changed


def is_unpinned(backbone: Mapping[str, Any]) -> bool:
    """Whether a read backbone is a model id without the revision that is meant."""
    model = str(backbone.get("model"))
    is_id = not model.startswith((EMBEDDED, PACKAGED)) and not is_path(model)
    return is_id and not backbone.get("revision")


def _read_gguf(path: Path) -> dict[str, Any] | None:
    """As `read_shape`, of a GGUF file or a folder that holds one; None for anything else."""
    try:
        file = gguf_file(path)
        if file is None:
            return None
        header = read_header(file)
        shape = shape_of(header)
    except BackboneError as error:
        raise UsageError(str(error)) from error
    if shape["family"] not in known_families():
        raise UsageError(
            f"backbone.model={file}: the family {shape['family']!r} is not known; "
            f"known: {', '.join(known_families())}"
        )
    return shape | {"dequantised_from": header.quantisation}


def read_shape(folder: Path, typed: str) -> dict[str, Any]:
    """Family, sizes and number of weights of the checkpoint in `folder`.

    Raises:
        UsageError: If the folder is missing, has no readable config.json, is of an unknown family,
        or holds
            weights only in a pickled form.
    """
    label = f"backbone.model={typed}"
    if not folder.is_dir():
        raise UsageError(f"{label}: there is no such folder")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{label}: the folder holds no config.json, so it is no checkpoint"
        ) from error
    except (ValueError, OSError) as error:
        raise UsageError(f"{label}: config.json cannot be read: {error}") from error
    weights = _weights(folder)
    if not weights:
        pickled = [
            path.name
            for ending in ("*.bin", "*.pt", "*.pth", "*.pkl")
            for path in folder.glob(ending)
        ]
        found = f"only {pickled[0]}, which can run code when it is loaded" if pickled else "none"
        raise UsageError(
            f"{label}: weights must be model.safetensors, or the *.safetensors that "
            f"model.safetensors.index.json names; the folder holds {found}"
        )
    config = config if isinstance(config, dict) else {}
    if unknown := why_unknown(config, known_families()):
        raise UsageError(f"{label}: {unknown}")
    family = str(config["model_type"])
    stated = get_family(family)
    if unfit := why_unfit(config, stated.requires):
        raise UsageError(f"{label}: {unfit}")
    depth, width, ffn = (
        next((config[key] for key in keys if config.get(key)), None)
        for keys in (stated.num_layers, stated.hidden_size, stated.ffn_size)
    )
    if not (isinstance(depth, int) and isinstance(width, int)):
        raise UsageError(f"{label}: config.json does not state depth and width of a {family} model")
    shape: dict[str, Any] = {
        "family": family,
        "num_layers": depth,
        "hidden_size": width,
        "ffn_size": ffn if isinstance(ffn, int) else 4 * width,  # GPT-2 and BLOOM leave it out
        "num_parameters": count_weights(weights),
    }
    if isinstance(config.get("vocab_size"), int):
        shape["vocabulary_size"] = config["vocab_size"]
    return shape


def count_weights(files: Sequence[Path]) -> int | None:
    """Number of weights in some *.safetensors files, from their headers; None if one is broken.

    Memory follows from it and the dtype that is run; a file's size depends on its stored dtype.
    """
    total = 0
    try:
        for path in files:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, _MOST_HEADER_BYTES)))
            tensors = (value for name, value in header.items() if name != "__metadata__")
            total += sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    return total


def _check_family(backbone: Mapping[str, Any]) -> None:
    family = backbone.get("family")
    if family is not None and family not in known_families():
        raise UsageError(
            f"backbone.family={family}: is not known; known: {', '.join(known_families())}"
        )


def _weights(folder: Path) -> list[Path]:
    """The weight files that are loaded, without those of adapters or other programs."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []
    return sorted(folder / str(name) for name in names if (folder / str(name)).is_file())


def is_path(model: str) -> bool:
    """Whether `model` is written as a path; no model id begins, or ends, like one."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or _is_gguf(model)


def _is_gguf(model: str) -> bool:
    return model.endswith(SUFFIX)
