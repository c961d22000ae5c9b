"""Reads the file that `presets=FILE` names: values for methods on the backbone that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.settings.yaml_files import SearchSpaces
from trainables.bases import check_presets
from trainables.errors import ConfigError

PUBLISHED = "published"  # in place of a file: none but the published presets hold


def read_presets(typed: Any) -> dict[str, dict[str, Any]]:
    """Values by method and key, as under `presets` of a backbone; empty if no file is named.

    The file holds that mapping, or a block `presets` with it, as a backbone's file does.

    Raises:
        UsageError: If there is no such file, or it holds anything but a mapping of mappings.
    """
    if not isinstance(typed, str) or typed in ("", PUBLISHED):
        return {}  # null; or no word, which the configuration refuses
    path = Path(typed).expanduser()
    if not path.is_file():
        raise UsageError(f"presets={typed}: there is no such file")
    try:
        presets = SearchSpaces.read(path)
        if [*presets] == ["presets"]:
            presets = presets["presets"]
        check_presets(presets, f"presets={typed}")
    except (UsageError, ConfigError) as error:
        raise UsageError(str(error)) from error
    return {method: dict(values) for method, values in presets.items()}
