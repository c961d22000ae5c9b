"""What a scheduler or a search may compare, as `search_spaces/metrics.yaml` declares it.

The declarations are data, because no package may import another: `analysis.metrics` reads the same
file for its tables. The trainables read none of it: they compute, and are told which of a row's
numbers are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from orchestrator.errors import UsageError
from orchestrator.settings.yaml_files import SearchSpaces

Mode: TypeAlias = Literal["max", "min"]
_MODES: Mapping[str, Mode] = {"higher": "max", "lower": "min"}


@dataclass(frozen=True)
class Compared:
    """A number that may be compared: the mean of some of a row's numbers.

    Attributes:
        name: As typed, such as `average.token`.
        numbers: Names in a row without the moment: `reliability.token`, `generality.token`, ...
        mode: Which end of it is the best, in Tune's and Optuna's word.
        has_rungs: Whether it is measured before the end, too.
    """

    name: str
    numbers: tuple[str, ...]
    mode: Mode
    has_rungs: bool

    @property
    def sign(self) -> int:
        """What to multiply values by, so that the largest is the best."""
        return 1 if self.mode == "max" else -1


def compared(typed: str) -> Compared:
    """What `typed` names.

    Raises:
        ValueError: If nothing that may be compared bears that name; the message tells what does.
    """
    known = _known()
    if typed in known:
        return known[typed]
    declared = SearchSpaces().metrics()
    scores = [name for name, values in declared["metrics"].items() if values["per"] == "prompts"]
    others = [name for name in known if name.rpartition(".")[0] not in scores]
    raise ValueError(
        f"write SCORE.MEASURE, SCORE one of {', '.join(scores)}, "
        f"MEASURE one of {', '.join(declared['measures_at_rungs'])}; or one of {', '.join(others)}"
    )


def at_rungs() -> tuple[str, ...]:
    """Names that schedulers compare before the end."""
    return tuple(name for name, each in _known().items() if each.has_rungs)


@cache
def _known() -> Mapping[str, Compared]:
    """By what is typed."""
    declared = SearchSpaces().metrics()
    metrics: Mapping[str, Mapping[str, Any]] = declared["metrics"]
    found = {}
    for name, values in metrics.items():
        if "better" not in values:
            continue
        parts = values.get("mean_of", [name])
        is_score = values["per"] == "prompts"
        if values["better"] not in _MODES:
            raise UsageError(
                f"metrics.yaml: metrics.{name}.better is {values['better']!r}; it must be "
                f"{' or '.join(_MODES)}"
            )
        for measure in declared["measures_at_rungs"] if is_score else [""]:
            suffix = f".{measure}" if measure else ""
            found[name + suffix] = Compared(
                name + suffix,
                numbers=tuple(part + suffix for part in parts),
                mode=_MODES[values["better"]],
                has_rungs=all("rung" in metrics[part].get("moments", ()) for part in parts),
            )
    return found
