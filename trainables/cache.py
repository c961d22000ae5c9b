"""The folder where embedded backbones, artefacts and facts about this machine are kept."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Folder of this project below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "editing-sweeps"


def packaged_file(cache: Path, sha256: str, file: str) -> Path:
    """Where in `cache` the member `file` of a wheel lies, once it is fetched.

    Args:
        cache: As `default_cache`.
        sha256: Of the member.
        file: Its path in the wheel.
    """
    return cache / "packages" / sha256[:16] / Path(file).name
