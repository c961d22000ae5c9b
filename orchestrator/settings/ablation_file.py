"""Checks the form of an ablation's file: every key is known and holds the right kind of value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.settings.complaints import unknown
from orchestrator.settings.yaml_files import GROUPS, SearchSpaces

_MAPPINGS = ("axes", "arms", "protocol", "evaluate", "rerun", "stands_for", "printed_cells")
_OF_FILES = ("arms", "question")
_AT_THE_TOP = ("defaults", "scales")


def check_ablation(spaces: SearchSpaces, name: str, words: Collection[str]) -> None:
    """Checks that the file has the form that `search_spaces/README.md` shows.

    Args:
        spaces: The folder that holds it.
        name: Name of the ablation.
        words: Keys allowed at the top, which may be typed, too.

    Raises:
        UsageError: For what would be ignored in silence: an unknown key or scale, a name or a list
            in place of a mapping.
    """
    content, label = spaces.load("ablation", name), f"ablation={name}"
    allowed = {*words, *_OF_FILES} - {"ablation", "scale"}
    _check(content, label, allowed | {*_AT_THE_TOP})
    for group in GROUPS:
        if isinstance(content.get(group), str):
            raise UsageError(
                f"{label}: {group}: {content[group]} chooses nothing here; "
                f"write defaults: [override /{group}: {content[group]}]"
            )
    scales = content.get("scales") or {}
    if not isinstance(scales, Mapping):
        raise UsageError(f"{label}: scales must be a mapping, {{quick: ..., paper: ...}}")
    for scale, block in scales.items():
        if scale not in spaces.names("scale"):
            raise unknown(f"{label}: scales.{scale}", str(scale), spaces.names("scale"))
        if block is not None and not isinstance(block, Mapping):
            raise UsageError(f"{label}: scales.{scale} must be a mapping, {{key: value}}")
        _check(block or {}, f"{label}: scales.{scale}", allowed)


def _check(values: Mapping[Any, Any], label: str, allowed: Collection[str]) -> None:
    for key, value in values.items():
        if key not in allowed:
            raise unknown(f"{label}: {key}", str(key), allowed)
        is_mapping = value is None or isinstance(value, Mapping)
        if key in _MAPPINGS and not is_mapping:
            raise UsageError(f"{label}: {key} must be a mapping, {{key: value}}, not {value!r}")
        if key in GROUPS and not is_mapping and not isinstance(value, str):
            raise UsageError(f"{label}: {key} must be a mapping, {{key: value}}, not {value!r}")
    for arm, settings in (values.get("arms") or {}).items():
        if settings is not None and not isinstance(settings, Mapping):
            raise UsageError(
                f"{label}: arms.{arm} must be a mapping, {{key: value}}, not {settings!r}"
            )
