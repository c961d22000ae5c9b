"""The numbers that a scheduler or a search may compare, declared in `search_spaces/metrics.yaml`.

The declarations are data, because no package may import another: `analysis.metrics` reads the same
file for its tables. The trainables read none of it: they compute, and are told which of a row's
numbers are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.errors import UsageError
from orchestrator.settings.complaints import complaint
from orchestrator.settings.yaml_files import SearchSpaces

Mode: TypeAlias = Literal["max", "min"]
_MODES: Mapping[str, Mode] = {"higher": "max", "lower": "min"}


@dataclass(frozen=True)
class Compared:
    """A number that may be compared: the mean of some of a row's numbers.

    Attributes:
        name: As typed, such as `average.token`.
        numbers: Names in a row without the moment: `reliability.token`, `generality.token`, ...
        mode: Whether the largest or the smallest is the best: `max` or `min`.
        has_rungs: Whether it is also measured before the end.
    """

    name: str
    numbers: tuple[str, ...]
    mode: Mode
    has_rungs: bool

    @property
    def sign(self) -> int:
        """1 or -1; multiplied by it, the best value is the largest."""
        return 1 if self.mode == "max" else -1

    def on(self, dataset: Mapping[str, Any]) -> tuple[str, ...]:
        """`numbers` as a trial on this data set calls them: its file says what `locality` is."""
        return _called(self.numbers, dataset)

    def at_the_end(self, metrics: Mapping[str, Any], dataset: Mapping[str, Any]) -> float | None:
        """Mean of those of its numbers that a trial's last row has; None if it has none."""
        found = [metrics.get(f"{name}.final", metrics.get(name)) for name in self.on(dataset)]
        values = [float(value) for value in found if value is not None]
        return fmean(values) if values else None


class Declaration(BaseModel):
    """What is read here of a line; `analysis.metrics` reads, and checks, the rest."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    per: Literal["prompts", "checkpoint", "trial"]
    kind: str = ""
    better: Literal["higher", "lower"] | None = None
    mean_of: list[str] | None = None
    one_of: list[str] | None = None
    moments: list[str] = []


def compared(typed: str) -> Compared:
    """The number that `typed` names.

    Raises:
        ValueError: If no number that may be compared has that name; the message lists the names.
    """
    known = _known()
    if typed in known:
        return known[typed]
    declared = _declared()
    scores = [name for name, metric in declared.metrics.items() if metric.per == "prompts"]
    others = [name for name in known if name.rpartition(".")[0] not in scores]
    raise ValueError(
        f"write SCORE.MEASURE, SCORE one of {', '.join(scores)}, "
        f"MEASURE one of {', '.join(declared.measures_at_rungs)}; or one of {', '.join(others)}"
    )


def means(numbers: Mapping[str, float], dataset: Mapping[str, Any]) -> dict[str, float]:
    """The declared means of one row's numbers, where a measure and moment has all their parts.

    Args:
        numbers: Such as `reliability.token.final`.
        dataset: The trial's; its file says what `locality` is.

    Returns:
        Such as `average.token.final`.
    """
    found = {}
    for name, metric in _declared().metrics.items():
        if not metric.mean_of:
            continue
        first, *others = _called(metric.mean_of, dataset)
        for key in numbers:
            part, dot, moment = key.partition(".")
            if dot and part == first and all(f"{each}.{moment}" in numbers for each in others):
                values = [numbers[f"{each}.{moment}"] for each in (first, *others)]
                found[f"{name}.{moment}"] = fmean(values)
    return found


def declarations() -> Mapping[str, Declaration]:
    """What is declared of each metric, in the order of a table's columns."""
    return _declared().metrics


def at_rungs() -> tuple[str, ...]:
    """Names of the numbers that a scheduler can compare before the end."""
    return tuple(name for name, each in _known().items() if each.has_rungs)


class _Declared(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    measures_at_rungs: Annotated[list[str], Field(min_length=1)]
    metrics: Annotated[dict[str, Declaration], Field(min_length=1)]

    @field_validator("metrics")
    @classmethod
    def _check_parts(cls, metrics: dict[str, Declaration]) -> dict[str, Declaration]:
        for name, metric in metrics.items():
            for key in ("mean_of", "one_of"):
                for part in getattr(metric, key) or ():
                    if part not in metrics:
                        raise ValueError(f"{name}.{key}: {part!r} is none of the metrics")
        return metrics


@cache
def _declared() -> _Declared:
    content = SearchSpaces().metrics()
    try:
        return _Declared.model_validate(content)
    except ValidationError as error:
        told = complaint(error, _Declared, (), (), content)
        raise UsageError(f"metrics.yaml: {told}") from error


@cache
def _known() -> Mapping[str, Compared]:
    """All numbers that may be compared, by the name that is typed."""
    declared = _declared()
    found = {}
    for name, metric in declared.metrics.items():
        if metric.better is None:
            continue
        parts = metric.mean_of or [name]
        for measure in declared.measures_at_rungs if metric.per == "prompts" else [""]:
            suffix = f".{measure}" if measure else ""
            found[name + suffix] = Compared(
                name + suffix,
                numbers=tuple(part + suffix for part in parts),
                mode=_MODES[metric.better],
                has_rungs=all("rung" in declared.metrics[part].moments for part in parts),
            )
    return found


def _called(names: Iterable[str], dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """`names` as a trial on this data set calls them; `locality` is of the kind its file says."""
    kind = dataset.get("locality") or "far"  # the only one, before files said so
    return tuple(re.sub(r"^locality(?=\.|$)", f"locality_{kind}", name) for name in names)
