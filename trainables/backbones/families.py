"""Where each model family keeps its parts, from `search_spaces/family/<name>.yaml`.

No code names a family. The orchestrator reads the same files for its plans
(`orchestrator/planning/families.py`), which must do without torch, so each has a small reader of
its own: one file, no list kept twice. The folder is found beside the package, also from a notebook.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from trainables.bases import read_yaml
from trainables.errors import BackboneError
from trainables.interfaces import Family

FOLDER = Path(__file__).resolve().parents[2] / "search_spaces" / "family"


def known_families() -> tuple[str, ...]:
    """Names of all families that have a file, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def get_family(model_type: str) -> Family:
    """The family of `model_type`, the name in a checkpoint's config.json.

    Raises:
        BackboneError: If the family has no file, or its file is not one of a family.
    """
    known = known_families()
    if not known:
        raise BackboneError(
            f"{FOLDER} holds no family; install from the source tree, by pip install -e"
        )
    if model_type not in known:  # before a path is made of it: it was read from a checkpoint
        raise BackboneError(f"model family {model_type!r} is not known; known: {', '.join(known)}")
    path = FOLDER / f"{model_type}.yaml"
    try:
        values: dict[str, Any] = read_yaml(path)
        values.pop("small", None)  # of the tests' checkpoint
        values["max_positions"] = values.pop("config")["max_positions"]
        values["requires"] = list(values.get("requires", {}).items())
        parts: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return Family(**parts)
    except (yaml.YAMLError, ValueError, OSError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise BackboneError(f"{path} does not describe a family: {reason}") from error


def family_of(folder: Path) -> Family:
    """The family that a checkpoint's config.json names.

    Raises:
        BackboneError: As `get_family` does.
    """
    return get_family(json.loads((folder / "config.json").read_text("utf-8"))["model_type"])


def check_ffn_is_added(family: Family, method: str) -> None:
    """Refuse a family whose FFN output passes a norm before it reaches the residual stream.

    Raises:
        BackboneError: If it does.
    """
    if family.norm_after_ffn is not None:
        raise BackboneError(
            f"{method} writes what an FFN is to add to the residual stream; in family "
            f"{family.name!r} a norm, {family.norm_after_ffn}, stands between the two"
        )
