"""What papers state and a plan at `scale=paper` does not meet: `search_spaces/deviations.yaml`."""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import UsageError
from orchestrator.settings.complaints import complaint
from orchestrator.settings.models import SweepConfig
from orchestrator.settings.yaml_files import SearchSpaces

PAPER_SCALE = "paper"


class Deviation(BaseModel):
    """Some settings of one method in one paper, and why they are not met.

    Attributes:
        paper: As in the names of its tables: memoe_v1, memoe_v2, lemoe, arm.
        method: As the paper calls it.
        settings: Their names in `analysis/paper_tables/hyperparameters.csv`.
        values: The stated values that are not met, where a paper states several; none: all.
        concerns: Methods whose trials deviate, or all; none: nothing that runs does.
        why: The reason, in words.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    paper: str
    method: str
    settings: Annotated[list[str], Field(min_length=1)]
    values: list[str] = []
    concerns: list[str] | Literal["all"] = []
    why: str


class _Deviations(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    deviations: list[Deviation]


def read_deviations(spaces: SearchSpaces) -> tuple[Deviation, ...]:
    """All deviations, in the order of the file.

    Raises:
        UsageError: If the file is not as it should be, or names a method that there is not.
    """
    content = spaces.deviations()
    try:
        found = _Deviations.model_validate(content).deviations
    except ValidationError as error:
        told = complaint(error, _Deviations, (), (), content)
        raise UsageError(f"deviations.yaml: {told}") from error
    known = spaces.names("method")
    for deviation in found:
        for name in () if deviation.concerns == "all" else deviation.concerns:
            if name not in known:
                raise UsageError(f"deviations.yaml: {name!r} is no method")
    return tuple(found)


def deviation_lines(config: SweepConfig, methods: Set[str]) -> list[str]:
    """One line for each reason why a trial of these methods differs from its paper's text."""
    if config.scale != PAPER_SCALE:
        return []
    return [
        f"not as {each.paper} states, {each.method}: {', '.join(each.settings)}: {each.why}"
        for each in read_deviations(config.spaces)
        if each.paper in config.papers and (each.concerns == "all" or methods & set(each.concerns))
    ]
