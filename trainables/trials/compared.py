"""The number of a row that a scheduler or a search compares; the trial is told which one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from trainables.errors import ConfigError
from trainables.metrics.evaluator import MEASURES
from trainables.spec import DatasetSpec


@dataclass(frozen=True)
class Compares:
    """What a scheduler compares.

    Attributes:
        name: As typed, such as `average.token`.
        numbers: Names in a row without the moment, as `reliability.token`; their mean counts.
    """

    name: str
    numbers: tuple[str, ...]

    def on(self, dataset: DatasetSpec) -> Compares:
        """The same, with the numbers as a trial on this data set calls them."""
        return Compares(self.name, tuple(map(dataset.named_here, self.numbers)))

    @property
    def scores(self) -> tuple[str, ...]:
        """The questions that have to be asked for it; perplexity is that of the edits' targets."""
        asked = (number.partition(".")[0] for number in self.numbers)
        return tuple("reliability" if name == "perplexity" else name for name in asked)


def compared(row: Mapping[str, float], compares: Compares, moment: str) -> float:
    """The number of a row that a scheduler compares; `moment` is rung or final.

    It is the mean of those of its numbers that the row has: a data set may lack some questions.

    Raises:
        ConfigError: If the row has none of them.
    """
    # What is measured once, at the end, bears no moment.
    found = [row.get(f"{name}.{moment}", row.get(name)) for name in compares.numbers]
    values = [value for value in found if value is not None]
    if not values:
        is_asked = all(name.rpartition(".")[2] in MEASURES for name in compares.numbers)
        lacks = "the data set has no such questions" if is_asked else "the trial has no such number"
        raise ConfigError(f"scheduler.metric is {compares.name}; {lacks}")
    return mean(values)
