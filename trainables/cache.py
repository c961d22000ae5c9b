"""The folder where embedded backbones, artefacts and facts about this machine are kept."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Folder of this project below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "editing-sweeps"
