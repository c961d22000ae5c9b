"""Checks that a checkpoint's folder is whole, and computes the fingerprint of its contents.

Everything is found in one reading and kept in the cache, never beside the weights: the folder is
the user's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainables.backbones.checkpoints.weight_check import check_weights, read_config
from trainables.backbones.checkpoints.weight_files import (
    POINTER,
    Extreme,
    Stored,
    is_pointer,
    read_through,
    weight_files,
)
from trainables.backbones.tokenizer import check_tokenizer, load_tokenizer, tokenizer_identity
from trainables.errors import BackboneError

# that a backbone can be run in
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VERSION = 1  # of what is examined: raised when something else is refused or kept
# Files that decide what a checkpoint answers, and those among them that do not: notes of the
# trainer of embedded backbones, settings of a sampler that is not used, and forms of a dialogue.
_OF_CHECKPOINT = ("*.safetensors", "*.json", "*.txt", "tokenizer*", "*.model", "*.tiktoken")
_NOTES = {"fingerprint.json", "known.json", "recipe.json", "report.json"}
_UNUSED = {"generation_config.json", "chat_template.json", "adapter_config.json"}
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        fingerprint: SHA-256 of weights, tokenizer and configuration, and of the training text that
            covariances are taken from; equal for copies of a folder.
        tokenizer: Class and versions that shape its ids.
        has_end_token: Whether the tokenizer has one.
        largest: The weight that is farthest from zero.
        adapter: File of an adapter that lies beside the weights and is not applied; or empty.
    """

    fingerprint: str
    tokenizer: str
    has_end_token: bool
    largest: Extreme
    adapter: str = ""

    @property
    def name_of_answers(self) -> str:
        """SHA-256 of the checkpoint and of the code that cuts its texts into tokens."""
        return hashlib.sha256(f"{self.fingerprint} {self.tokenizer}".encode()).hexdigest()

    def check_range(self, folder: Path, dtype: str) -> None:
        """Raises BackboneError if a weight becomes infinite in `dtype`."""
        if dtype not in DTYPES:
            raise BackboneError(f"backbone.dtype={dtype}: allowed: {', '.join(DTYPES)}")
        value = torch.tensor(self.largest.value, dtype=torch.float64).to(DTYPES[dtype])
        if not torch.isfinite(value):
            raise BackboneError(
                f"backbone.dtype={dtype}: the tensor {self.largest.tensor!r} in "
                f"{self.largest.file} of {folder} holds {self.largest.value:g}, beyond its range "
                f"of {torch.finfo(DTYPES[dtype]).max:g}"
            )


def examine(folder: Path, cache: Path | None = None) -> Checkpoint:
    """The checkpoint in a folder, after a search for everything that can be wrong with it.

    Args:
        folder: Of the checkpoint; nothing is written there.
        cache: Where the result is kept. It is believed while name, size, time and place of every
            file are those it was made from. None: found anew each time.

    Raises:
        BackboneError: Naming the file, and the tensor in it, that is missing, torn, of the wrong
            shape or not finite; or what is wrong with configuration or tokenizer.
    """
    stamps = _stamps(folder)
    kept = None if cache is None else cache / "checkpoints" / f"{_key(folder, stamps)}.json"
    if kept is not None:
        # not there, or half of it
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads(kept.read_text("utf-8"))
            return Checkpoint(**{**values, "largest": Extreme(**values["largest"])})
    found = _examined(folder)
    if _stamps(folder) != stamps:
        raise BackboneError(f"backbone.model={folder}: its files changed while they were read")
    if kept is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
            _keep(kept, asdict(found))
    return found


def fingerprint(folder: Path, cache: Path | None = None) -> str:
    """`Checkpoint.fingerprint` of a whole checkpoint; raises as `examine`."""
    return examine(folder, cache).fingerprint


def _examined(folder: Path) -> Checkpoint:
    for file in _files(folder):
        if is_pointer(file):
            raise BackboneError(f"backbone.model={folder}: {file.name} {POINTER}")
    config = read_config(folder)
    weights = check_weights(folder, config)
    tokenizer = load_tokenizer(folder)
    check_tokenizer(folder, tokenizer, weights.num_embeddings)
    digest = hashlib.sha256()
    largest = Extreme()
    for file in _files(folder):
        digest.update(file.name.encode())
        if file.suffix == ".safetensors":
            held: dict[str, Stored] = {
                name: each for name, each in weights.parameters.items() if each.file == file
            }
            largest = max(largest, read_through(file, held, digest), key=lambda one: one.value)
        else:
            digest.update(file.read_bytes())
    beside = [name for name in ADAPTER if (folder / name).is_file()]
    return Checkpoint(
        fingerprint=digest.hexdigest(),
        tokenizer=tokenizer_identity(folder, tokenizer),
        has_end_token=tokenizer.eos_token_id is not None,
        largest=largest,
        adapter=beside[0] if beside else "",
    )


def _files(folder: Path) -> list[Path]:
    """The files that decide a checkpoint's outputs, by name."""
    read = set(weight_files(folder))
    found = {path for pattern in _OF_CHECKPOINT for path in folder.glob(pattern) if path.is_file()}
    return sorted(
        path
        for path in found
        if path.name not in _NOTES | _UNUSED and (path.suffix != ".safetensors" or path in read)
    )


def _stamps(folder: Path) -> list[list[Any]]:
    """Name, size, time and place of every file that is looked at."""
    if not (folder / "config.json").is_file():
        raise BackboneError(f"backbone.model={folder}: has no config.json")
    beside = [folder / name for name in ADAPTER if (folder / name).is_file()]
    states = [(path.name, path.stat()) for path in [*_files(folder), *beside]]
    return [[name, s.st_size, s.st_mtime_ns, s.st_dev, s.st_ino] for name, s in states]


def _key(folder: Path, stamps: list[list[Any]]) -> str:
    """Name under which the state of a folder is kept; copies on two nodes have two names."""
    versions = [VERSION, version("transformers"), version("tokenizers")]
    content = json.dumps([str(folder.resolve()), stamps, versions])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _keep(path: Path, values: dict[str, Any]) -> None:
    """Written aside and renamed: another process never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(values), encoding="utf-8")
    aside.replace(path)
