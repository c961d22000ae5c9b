"""What a trial measures, as `search_spaces/metrics.yaml` declares it: names, headings, digits.

The declarations are data, because no package may import another: `orchestrator.settings.metrics`
reads the same file, and the trainables are told what to compare. So a new metric is the function
that computes it and one line there.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from analysis.errors import AnalysisError

FILE = Path(__file__).resolve().parents[1] / "search_spaces" / "metrics.yaml"

Kind: TypeAlias = Literal[
    "share", "ratio", "cosine", "perplexity", "count", "seconds", "bytes", "gib"
]
Per: TypeAlias = Literal["prompts", "checkpoint", "trial"]
Better: TypeAlias = Literal["higher", "lower"]
Moment: TypeAlias = Literal["before", "immediate", "rung", "final", "curve"]
_STRICT = ConfigDict(strict=True, extra="forbid")
_WORDS = TypeAdapter(list[str], config=_STRICT)


@dataclass(frozen=True, config=_STRICT)
class Metric:
    """One declared metric.

    Attributes:
        heading: Heading of its column.
        per: What it is measured on. `prompts`: all prompts of one kind, in each measure, logged as
            `<name>.<measure>.<moment>`. `checkpoint`: logged as `<name>.<moment>`. `trial`: logged
            once, at the end, as `<name>`.
        moments: When it is measured: before, immediate, rung, final, curve.
        better: Whether higher or lower values are better; None if neither.
        digits: Decimals in a table.
        has_column: Whether every ablation's table shows it where it was measured.
        mean_of: Metrics whose mean it is; empty if it is logged itself.
        one_of: Metrics of which it is one, as the file of the data set says; empty if it is logged
            itself.
        printed_as: Its column in the files of published numbers; None: no paper prints it.
    """

    name: str
    heading: str
    kind: Kind
    per: Per
    moments: tuple[Moment, ...] = ()
    better: Better | None = None
    digits: int = 2
    has_column: bool = True
    mean_of: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    printed_as: str | None = None


def read_metrics(path: Path = FILE) -> tuple[tuple[str, ...], dict[str, Metric]]:
    """The measures, and the metrics by name, in the order of the file.

    Raises:
        AnalysisError: If the file is missing or is not YAML, or if a metric lacks a key, or has an
            unknown key or a value that is not allowed.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        measures = tuple(_WORDS.validate_python(content["measures"]))
        found = {name: _metric(name, values) for name, values in content["metrics"].items()}
        for each in found.values():
            for key in ("mean_of", "one_of"):
                for part in getattr(each, key):
                    if part not in found:
                        raise TypeError(
                            f"metrics.{each.name}.{key}: {part!r} is none of the metrics"
                        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AnalysisError(
            f"{path.name} does not declare metrics as it should: {reason}"
        ) from error
    return measures, found


def _metric(name: str, values: Mapping[str, Any]) -> Metric:
    """One metric; ValueError or TypeError where its line is not as `Metric` has it."""
    if not isinstance(values, Mapping):
        raise TypeError(f"metrics.{name} is {values!r}; it must be a mapping")
    known = [field.name for field in fields(Metric)]
    if unknown := [key for key in values if key not in known]:
        raise TypeError(f"metrics.{name}.{unknown[0]} is none of {', '.join(known)}")
    lists = {
        key: tuple(_WORDS.validate_python(values[key]))
        for key in ("moments", "mean_of", "one_of")
        if key in values
    }
    try:
        return Metric(**{"name": name, **values, **lists})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise TypeError(f"metrics.{name}.{key} is missing") from error
        raise TypeError(f"metrics.{name}.{key} is {first['input']!r}: {first['msg']}") from error


MEASURES, METRICS = read_metrics()
AVERAGED = METRICS["average"].mean_of
MAIN = (*AVERAGED, "average")  # the columns of every table, in this order


def metric(name: str) -> Metric | None:
    """The declaration of `name`; a declared `<first word>.*` covers all names that begin so."""
    return METRICS.get(name) or METRICS.get(f"{name.partition('.')[0]}.*")


def headings(names: Iterable[str]) -> dict[str, str]:
    """The heading of each metric, by its name."""
    return {name: METRICS[name].heading for name in names}


def digits(names: Iterable[str]) -> dict[str, int]:
    """Decimals of each score; `<score>.immediate` has those of the final score."""
    found = {name: metric(name.removesuffix(".immediate")) for name in names}
    return {name: declared.digits for name, declared in found.items() if declared is not None}


def score_error(name: str) -> str:
    """The message that `name` is not a metric; "" if it is one."""
    at_once = [each.name for each in METRICS.values() if "immediate" in each.moments]
    known = [*METRICS, *(f"{each}.immediate" for each in at_once)]
    if name in known or metric(name) is not None:
        return ""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{name!r} is no metric; {hint}known: {', '.join(METRICS)}"
