"""Finds a model id's checkpoint in the hub's cache on this machine, and fetches it if need be.

What is cached is never asked for again. The hub is tried once and briefly: a machine without
internet says so at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainables.backbones.checkpoints.weight_files import weight_files
from trainables.backbones.tokenizer import has_tokenizer
from trainables.errors import BackboneError

TIMEOUT_SECONDS = 5.0
# What a checkpoint is made of; not what lies below (other formats) or beside it (other programs').
_WANTED = ("model*.safetensors", "*.json", "*.txt", "tokenizer*", "*.model", "*.tiktoken")


def checkpoint_folder(
    model: str, revision: str | None, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> Path:
    """Folder of the checkpoint that `model` names, itself a folder or a model id.

    Args:
        model: Folder or id.
        revision: Commit of an id.
        timeout_seconds: How long the hub may take to answer.

    Raises:
        BackboneError: If it is neither on this machine nor to be fetched.
    """
    if Path(model).is_dir():
        return Path(model)
    if model.startswith(("/", ".", "~")):
        raise BackboneError(f"backbone.model={model}: there is no such folder")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    here = _cached(model, revision)
    if here is not None:
        return here
    # the error of whichever HTTP client that package uses: nobody answers, or too slowly
    network: Any
    (network,) = (base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        _ask(model, revision, timeout_seconds)
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(_WANTED),
                ignore_patterns=["*/*"],
                etag_timeout=timeout_seconds,
            )
        )
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        reason = "the hub has no such model or revision, or shows it only with a token (HF_TOKEN)"
        cause: Exception = error
    except OfflineModeIsEnabled as error:
        reason, cause = "HF_HUB_OFFLINE is set", error
    except (OSError, ValueError, network) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        reason, cause = f"{constants.ENDPOINT} cannot be reached ({words[:120]})", error
    raise BackboneError(
        f"backbone.model={model}: revision {revision} is not in this machine's cache of the hub, "
        f"and {reason}; to use a folder: backbone.model=FOLDER"
    ) from cause


def _ask(model: str, revision: str | None, timeout_seconds: float) -> None:
    """Raises if the hub does not answer: once, where a download would try for a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(model, revision=revision, timeout=timeout_seconds)


def _cached(model: str, revision: str | None) -> Path | None:
    """The cached snapshot, if it holds a configuration, all weights and a tokenizer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError

    try:
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:  # files that are not needed count there too
        folder = Path(error.snapshot_path)
    except (FileNotFoundError, HFValidationError):
        return None
    try:
        weight_files(folder)
    except BackboneError:
        return None
    return folder if (folder / "config.json").is_file() and has_tokenizer(folder) else None
