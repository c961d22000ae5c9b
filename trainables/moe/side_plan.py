"""The plan of a batch: all that is drawn and decided before it is trained, as plain values.

It is stored with a batch under way, so that a stopped batch goes on with the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.interfaces import Json
from trainables.moe.side_memory import selected_expert

Selection = Literal["random", "fixed", "cyclic", "arm"]


@dataclass(frozen=True)
class Remembered:
    """An earlier prompt x_m, the expert j that holds it, and the edit it is kept against."""

    edit: int
    prompt: str
    owner: int


@dataclass(frozen=True)
class BatchPlan:
    """How a batch of B edits is trained.

    Attributes:
        forms: Further forms of each edit's prompt.
        unrelated: x_o of each edit.
        owners: Memory that learns each edit.
        remembered: Earlier prompts for the memory loss.
        counts: Fall-backs that planning took, by name.
        numbers: Other numbers for the report, by name.
    """

    forms: list[list[str]]
    unrelated: list[list[str]]
    owners: list[int] = field(default_factory=list)
    remembered: list[Remembered] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """The plan as plain values."""
        values: dict[str, Any] = {name: vars(self)[name] for name in self.__dataclass_fields__}
        return values | {"remembered": [[x.edit, x.prompt, x.owner] for x in self.remembered]}

    @classmethod
    def from_json(cls, values: Any) -> BatchPlan:
        """The plan that `to_json` wrote."""
        return cls(**values | {"remembered": [Remembered(*item) for item in values["remembered"]]})


def count(counts: dict[str, int], name: str, number: int = 1) -> None:
    """Add `number` to a count; 0 leaves no entry behind."""
    if number:
        counts[name] = counts.get(name, 0) + number


def select_experts(
    scores: Tensor,
    selection: Selection,
    selection_threshold: float,
    *,
    plan: BatchPlan,
    first_edit: int,
    generator: torch.Generator,
) -> list[int]:
    """Expert that learns each edit; random ones and edits without a score are counted in `plan`.

    Source: ARM (Serial Lifelong Editing via Mixture of Knowledge Experts), Eq. 3 and Table 4.

    Args:
        scores: S_i, (B, E).
        selection: `arm` is Eq. 3; `random` draws always; `cyclic` gives edit n to expert n mod K,
            Table 4's "fixed arrangement that choose experts cyclically"; `fixed` gives all edits
            to the first expert.
        selection_threshold: epsilon.
        plan: An edit without unrelated prompts has no S_i; its expert is drawn.
        first_edit: Number of the batch's first edit in the trial.
        generator: Draws the random experts.
    """
    num_experts = scores.shape[1]
    if selection == "fixed":
        return [0] * len(scores)
    if selection == "cyclic":
        return [(first_edit + index) % num_experts for index in range(len(scores))]
    owners = []
    for own, unrelated in zip(scores, plan.unrelated, strict=True):
        is_scored = selection == "arm" and bool(unrelated)
        expert, is_drawn = selected_expert(
            own if is_scored else torch.zeros_like(own), selection_threshold, generator
        )
        owners.append(expert)
        if selection == "arm" and is_drawn:
            count(plan.counts, "new_to_all_experts" if unrelated else "no_selection_score")
    return owners
