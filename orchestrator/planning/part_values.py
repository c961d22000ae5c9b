"""Checks the settings of a backbone and a data set; pure, except that it looks at files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.shapes import EMBEDDED, PACKAGED, SHAPE, is_path
from orchestrator.planning.trial_spec import Origin
from orchestrator.settings.models import MOST_SEED

_PARTS = ("all", "report", "tune")
# What a checkpoint says of itself.
_OF_THE_MODEL = ("family", *SHAPE, "num_parameters", "dequantised_from")
_MAY_BE_NULL = frozenset(
    {
        *("revision", "memory_gib", "num_parameters", "data_path"),
        *("path", "answers", "max_edits", "frequency_band"),
    }
)
_MOST_GIB = 1e6
_PACKAGE = {
    "name": re.compile(r"[A-Za-z0-9][\w.-]*"),
    "version": re.compile(r"[A-Za-z0-9][\w.!+-]*"),
    "file": re.compile(r"[\w][^\\:]*\.gguf"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
}
_PACKAGE_SAYS = {
    "name": "the name of a package",
    "version": "a version of it, in quotes",
    "file": "the path of a .gguf file in its wheel",
    "sha256": "the 64 hex digits of that file's SHA-256",
}
_OF_TRAINING = ("seed", "data_path")


def check_backbone(backbone: Mapping[str, Any], origins: Mapping[str, Origin]) -> None:
    """Checks that every value of the backbone is possible and has an effect.

    Args:
        backbone: The YAML with all overrides.
        origins: Source of each value, by dotted key.

    Raises:
        UsageError: Otherwise, with key, value and what is allowed.
    """
    model = backbone.get("model")
    if not isinstance(model, str) or not model:
        raise UsageError(f"backbone.model={model}: must be a model id, or a folder")
    is_embedded = model.startswith(EMBEDDED)
    is_made = model.startswith((EMBEDDED, PACKAGED))
    is_id = not is_made and not is_path(model) and not Path(model).expanduser().is_dir()
    moved = {
        key.removeprefix("backbone.")
        for key, origin in origins.items()
        if not origin.source.startswith("backbone ")
    }
    for key in (*_OF_THE_MODEL, "revision"):
        is_set = key in moved and (backbone[key] is not None or key != "revision")
        if is_set and not is_id:
            why = "has no revisions" if key == "revision" else "says it itself"
            raise UsageError(
                f"backbone.{key}={backbone[key]}: {model} {why}; it is set for a model id alone"
            )
    for key in _OF_TRAINING:
        if key in moved and not is_embedded and backbone[key] is not None:
            raise UsageError(f"backbone.{key}={backbone[key]}: {model} is not trained here")
    if model.startswith(PACKAGED):
        check_package(backbone.get("package"))
    memory, count = backbone.get("memory_gib"), backbone.get("num_parameters")
    if memory is not None and not (_is_number(memory) and 0 < memory <= _MOST_GIB):
        raise UsageError(f"backbone.memory_gib={memory}: must be GiB above 0, or null")
    if count is not None and not (_is_whole(count) and count >= 1):
        raise UsageError(f"backbone.num_parameters={count}: must be a whole number of at least 1")
    seed, data = backbone.get("seed"), backbone.get("data_path")
    if seed is not None and not (_is_whole(seed) and 0 <= seed <= MOST_SEED):
        raise UsageError(f"backbone.seed={seed}: must be a whole number in 0 to {MOST_SEED}")
    if data is not None and not Path(str(data)).expanduser().is_file():
        raise UsageError(f"backbone.data_path={data}: there is no such file")


def check_package(package: Any) -> None:
    """Raises UsageError unless a package says where one file of it is, and which."""
    for key, form in _PACKAGE.items():
        value = package.get(key) if isinstance(package, Mapping) else None
        if not isinstance(value, str) or not form.fullmatch(value):
            raise UsageError(f"backbone.package.{key}={value}: must be {_PACKAGE_SAYS[key]}")
    if len(package) > len(_PACKAGE):
        other = next(key for key in package if key not in _PACKAGE)
        raise UsageError(f"backbone.package.{other}: is no key; keys are {', '.join(_PACKAGE)}")


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """Checks that every value of the data set is possible and has an effect.

    Raises:
        UsageError: Otherwise, with key, value and what is allowed.
    """
    if dataset.get("path") is not None and dataset.get("source") != "file":
        raise UsageError(
            f"dataset.path={dataset['path']}: dataset={dataset['name']} is not read from a file"
        )
    band = dataset.get("frequency_band")
    if band is not None and not isinstance(band, list):
        raise UsageError(f"dataset.frequency_band={band}: must be two shares, [low, high], or null")
    limits = dataset.get("max_edits")
    for part, limit in (limits if isinstance(limits, dict) else {"": limits}).items():
        if part and part not in _PARTS:
            raise UsageError(f"dataset.max_edits.{part}={limit}: parts are {', '.join(_PARTS)}")
        if limit is not None and not (_is_whole(limit) and limit >= 1):
            dotted = f".{part}" if part else ""
            raise UsageError(
                f"dataset.max_edits{dotted}={limit}: must be a whole number of at least 1"
            )


def find_files(dataset: dict[str, Any]) -> None:
    """Makes `path` and `answers` absolute.

    Raises:
        UsageError: If a data set that is read from files lacks its files, or a part is unknown.
    """
    if dataset.get("answers") is not None:
        dataset["answers"] = _data_file("answers", dataset["answers"])
    typed = dataset.get("path")
    if typed is not None:
        paths = [
            _data_file("path", each) for each in (typed if isinstance(typed, list) else [typed])
        ]
        if not paths or len(set(paths)) < len(paths):
            raise UsageError(f"dataset.path={typed}: name at least one file, and each only once")
        dataset["path"] = paths if len(paths) > 1 else paths[0]
    elif dataset.get("source") == "file":
        raise UsageError(f"dataset={dataset['name']} is read from a file: add dataset.path=FILE")
    if dataset.get("part", "report") not in ("tune", "report", "all"):
        raise UsageError(f"dataset.part={dataset['part']}: allowed: tune, report, all")


def check_pair(backbone: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Checks that an embedded backbone is not trained on a file that its data set does not use.

    Raises:
        UsageError: If it is.
    """
    if backbone.get("data_path") is not None and dataset.get("source") != "file":
        raise UsageError(
            f"backbone.data_path={backbone['data_path']}: backbone={backbone['name']} reads no "
            f"file with dataset={dataset['name']}"
        )


def check_null(part: str, key: str, value: Any, default: Any) -> None:
    """Checks that null does not take away a value that a trial needs.

    Raises:
        UsageError: If it does.
    """
    if value is None and default is not None and key not in _MAY_BE_NULL:
        raise UsageError(f"{part}.{key}=null: must have a value, such as {default!r}")


def answers_digest(dataset: Mapping[str, Any]) -> str | None:
    """The first 12 hex digits of the SHA-256 of the answers' file; None where there is none.

    The file is made to be edited by hand, so that its name alone says little.

    Raises:
        UsageError: If it cannot be read.
    """
    path = dataset.get("answers")
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise UsageError(f"dataset.answers={path}: {error.strerror}") from error


def _data_file(key: str, typed: Any) -> str:
    """The absolute path of a file that is there."""
    path = Path(str(typed)).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"dataset.{key}={typed}: there is no such file")
    return str(path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
