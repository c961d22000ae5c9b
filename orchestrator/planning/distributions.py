"""Distributions that a search draws values from, in the units of its backbone; pure."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.settings.complaints import unknown

_MOST_COMBINATIONS = 1000  # a tenth of a second
_DISTRIBUTIONS = {
    "uniform": {"low", "high"},
    "loguniform": {"low", "high"},
    "int": {"low", "high"},
    "logint": {"low", "high"},
    "categorical": {"choices"},
}


@dataclass(frozen=True)
class Distribution:
    """A distribution that a search draws one value from, in the backbone's own units.

    Attributes:
        kind: uniform | loguniform | int | logint (both ends included) | categorical.
        digits: Significant digits that a drawn number keeps; None: all.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    digits: int | None = None

    def value(self, drawn: Any) -> Any:
        """The value that a draw means: of choices their number is drawn."""
        if self.choices:
            return self.choices[drawn]
        if self.digits is not None and isinstance(drawn, float):
            return float(f"{drawn:.{self.digits}g}")
        return drawn

    def draw(self, value: Any) -> Any:
        """The draw that means `value`; None for a value that is never drawn."""
        if self.choices:
            return self.choices.index(value) if value in self.choices else None
        is_number = isinstance(value, int if self.kind.endswith("int") else int | float)
        if not is_number or isinstance(value, bool):
            return None
        assert self.low is not None
        assert self.high is not None
        return value if self.low <= value <= self.high else None


def read_distribution(
    key: str, axis: list[Any] | Mapping[str, Any], scaled: Callable[[Any], Any]
) -> Distribution:
    """The distribution that an axis names, in the backbone's own units.

    Args:
        key: Dotted key of the axis.
        axis: A list of choices, or what a file calls a distribution.
        scaled: An end or a choice -> its value on the backbone.

    Raises:
        UsageError: For a distribution that does not exist or lacks an end.
    """
    found = _distribution(key, axis)
    low, high, *choices = map(scaled, (found.low, found.high, *found.choices))
    # By what is written: choices may fall together, and lists are choices, too.
    distinct = {json.dumps(choice): choice for choice in choices}
    return dataclasses.replace(found, low=low, high=high, choices=tuple(distinct.values()))


def extremes(distributions: Mapping[str, Distribution]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' ends and choices.

    Of very many, all axes at their first value, all at their last, and each choice of one axis with
    the others at their first and at their last.
    """
    values = _ends(distributions)
    if math.prod(map(len, values.values())) <= _MOST_COMBINATIONS:
        yield from (
            dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
        )
        return
    for others in lowest_and_highest(distributions):
        yield others
        yield from ({**others, key: value} for key, each in values.items() for value in each)


def lowest_and_highest(distributions: Mapping[str, Distribution]) -> Iterator[dict[str, Any]]:
    """All axes at their first end or choice, then all at their last."""
    values = _ends(distributions)
    for end in (0, -1):
        yield {key: each[end] for key, each in values.items()}


def _ends(distributions: Mapping[str, Distribution]) -> dict[str, list[Any]]:
    return {
        key: list(each.choices) if each.choices else [each.low, each.high]
        for key, each in distributions.items()
    }


def middle(distributions: Mapping[str, Distribution]) -> dict[str, Any]:
    """All axes in the middle of their range, on their own scale."""
    return {key: _middle(distribution) for key, distribution in distributions.items()}


def _middle(distribution: Distribution) -> Any:
    if distribution.low is None or distribution.high is None:
        return distribution.choices[len(distribution.choices) // 2]
    is_log = distribution.kind.startswith("log")
    value = (
        math.sqrt(distribution.low * distribution.high)
        if is_log
        else (distribution.low + distribution.high) / 2
    )
    return round(value) if distribution.kind.endswith("int") else value


def _distribution(key: str, axis: list[Any] | Mapping[str, Any]) -> Distribution:
    if isinstance(axis, list):
        return Distribution("categorical", choices=tuple(axis))
    kind = axis.get("distribution")
    if kind not in _DISTRIBUTIONS:
        raise unknown(f"axes.{key}.distribution={kind}", str(kind), _DISTRIBUTIONS)
    given = set(axis) - {"distribution"}
    if given != _DISTRIBUTIONS[kind]:
        wanted = ", ".join(sorted(_DISTRIBUTIONS[kind]))
        raise UsageError(
            f"axes.{key}: {kind} takes {wanted}, not {', '.join(sorted(given)) or 'nothing'}"
        )
    if kind == "categorical":
        if not isinstance(axis["choices"], list) or not axis["choices"]:
            raise UsageError(f"axes.{key}.choices={axis['choices']}: give a list of values, [...]")
        return Distribution(kind, choices=tuple(axis["choices"]))
    low, high = axis["low"], axis["high"]
    is_number = all(
        isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)
    )
    if not is_number or not low < high or (kind.startswith("log") and low <= 0):
        raise UsageError(
            f"axes.{key}: low={low}, high={high}; need low < high, and low > 0 for a log scale"
        )
    return Distribution(kind, low, high)
