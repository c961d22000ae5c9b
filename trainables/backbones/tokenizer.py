"""Loads the tokenizer of a checkpoint's folder: the same one whatever packages are installed.

Where the folder has a tokenizer.json, that file is used as it is. transformers' own choice depends
on what is installed (with mistral-common, a folder with a tekken.json gets a tokenizer without
offsets), and some of its classes build their own tokenizer from the file's vocabulary, whose ids
differ. Only without that file is transformers asked to convert the files that are there.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainables.backbones.silence import without_reports
from trainables.errors import BackboneError

FILE = "tokenizer.json"
# What transformers makes a tokenizer of, and the packages that it needs for that.
_CONVERTED = {
    "tokenizer.model": ("sentencepiece",),
    "vocab.json": (),
    "tekken.json": ("mistral-common", "tiktoken"),
}
_PROBE = "Ada Quell works in Oslo."


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds what a tokenizer can be made of."""
    return _source(folder) is not None


def _source(folder: Path) -> str | None:
    for name in (FILE, *_CONVERTED):
        # without its merges a vocabulary is cut by id, which gives other tokens
        beside = ["merges.txt"] if name == "vocab.json" else []
        if all((folder / needed).is_file() for needed in (name, *beside)):
            return name
    return None


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; it can tell where in a text each token lies.

    Raises:
        BackboneError: If there is none, or it cannot be read or converted.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    source = _source(folder)
    label = f"backbone.model={folder}"
    if source is None:
        raise BackboneError(f"{label}: holds no tokenizer ({FILE})")
    loader: Any = PreTrainedTokenizerFast if source == FILE else AutoTokenizer
    # Llama 3's file asks for a clean-up that is BERT's: it takes blanks out of a text.
    pinned: dict[str, bool] = {"clean_up_tokenization_spaces": False}
    if source != FILE:
        pinned["mistral_format"] = False
    try:
        if source == FILE:
            json.loads((folder / FILE).read_text("utf-8"))
        with without_reports():
            tokenizer = loader.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True, **pinned
            )
            offsets = tokenizer(_PROBE, return_offsets_mapping=True)["offset_mapping"]
    except Exception as error:
        # tokenizers raises plain Exception of a file that it does not understand
        raise BackboneError(f"{label}: {source} {_reason(source, error)}") from error
    if not tokenizer.is_fast or not offsets:
        raise BackboneError(f"{label}: {source} gives a tokenizer without offsets; add {FILE}")
    return tokenizer


def _reason(source: str, error: Exception) -> str:
    needs = " and ".join(name for name in _CONVERTED.get(source, ()) if not _is_installed(name))
    if needs:
        return f"cannot be converted without the package {needs}; install it, or add {FILE}"
    return f"cannot be read: {' '.join(str(error).split())[:200]}"


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def tokenizer_identity(folder: Path, tokenizer: Any) -> str:
    """Class and versions that shape a tokenizer's ids beside its files."""
    shaped_by = ["tokenizers"] if (folder / FILE).is_file() else ["tokenizers", "transformers"]
    versions = [f"{package} {version(package)}" for package in shaped_by]
    return ", ".join([type(tokenizer).__name__, *versions])


def check_tokenizer(folder: Path, tokenizer: Any, num_embeddings: int) -> None:
    """Refuse a tokenizer that has tokens without an embedding.

    Raises:
        BackboneError: Naming the first such token.
    """
    beyond = [(id_, token) for token, id_ in tokenizer.get_vocab().items() if id_ >= num_embeddings]
    if beyond:
        id_, token = min(beyond)
        raise BackboneError(
            f"backbone.model={folder}: the tokenizer's token {token!r} has the id {id_}; the "
            f"embedding has ids 0 to {num_embeddings - 1} ({len(beyond)} tokens without one)"
        )
