"""Decides which expert learns which edit of a batch, and how rare the loss takes each edit to be.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors", Eq. 11 and 12, and the
normalised GECE of Eq. 16-18. The controls that the paper does not have: division by 1 - the mean
probability of the model's own answer, and at random; the loss weighs by GECE in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.assemblies.gece import Calibration
from trainables.interfaces import State
from trainables.moe.frequency import Scale, divide, means_by_expert, scaled, shuffled_scores
from trainables.optimise import BatchRun, Optimisation

DivisionBy = Literal["gece", "confidence", "random", "none"]


@dataclass(frozen=True)
class DivisionSettings:
    """How edits are divided.

    Attributes:
        division: What edits are divided by; none: not at all.
        num_experts: n.
        head_share: p of Eq. 11.
        cluster_balance_weight: lambda of Eq. 12.
        cluster_scale: Scale on which scores are clustered, and weigh the loss as g. On `raw`,
            Eq. 12 measures distances of the scores themselves, on the others in [0, 1].
    """

    division: DivisionBy
    num_experts: int
    head_share: float
    cluster_balance_weight: float
    cluster_scale: Scale


@dataclass(frozen=True)
class Division:
    """Which expert learns each edit, with the scores and numbers to report.

    Attributes:
        labels: Expert of each edit, (N,) int64; -1 without a division.
        g: Normalised GECE, (N,) float64 in [0, 1]; 0 where it was not asked for.
        gece: GECE, (N,); None where it was not asked for.
        uncertainty: 1 - mean probability of the model's own answer, (N,); None likewise.
        counts: Stated fall-backs, in edits or experts.
        numbers: What else the report says.
    """

    labels: Tensor
    g: Tensor
    gece: Tensor | None
    uncertainty: Tensor | None
    counts: dict[str, int]
    numbers: dict[str, float]

    def by_expert(self, routes: list[int]) -> dict[str, float]:
        """Mean GECE and mean uncertainty of the edits that go to each expert (Appendix D.4)."""
        found: dict[str, float] = {}
        for name, values in (("gece", self.gece), ("uncertainty", self.uncertainty)):
            means = {} if values is None else means_by_expert(values.tolist(), routes)
            found |= {f"mean_{name}_expert_{expert}": mean for expert, mean in means.items()}
        return found

    def state(self) -> State:
        """The whole division, as a state."""
        named = {"labels": self.labels, "g": self.g, "gece": self.gece, "unsure": self.uncertainty}
        tensors = {name: value for name, value in named.items() if value is not None}
        return State(tensors, {"counts": dict(self.counts), "numbers": dict(self.numbers)})

    @classmethod
    def from_state(cls, state: State, device: torch.device) -> Division:
        """The division that `state` stored."""
        tensors = {name: value.to(device) for name, value in state.tensors.items()}
        values: dict[str, Any] = dict(state.values)
        return cls(
            tensors["labels"],
            tensors["g"],
            tensors.get("gece"),
            tensors.get("unsure"),
            dict(values["counts"]),
            dict(values["numbers"]),
        )


@dataclass
class DividedRun:
    """A batch under way, and who learns which of its edits."""

    work: BatchRun
    division: Division

    @property
    def optimisation(self) -> Optimisation:
        """The loop that learns its edits."""
        return self.work.optimisation


def divided(
    num_edits: int,
    settings: DivisionSettings,
    calibrate: Callable[[], Calibration] | None,
    generator: torch.Generator,
    device: torch.device,
) -> Division:
    """The division of a batch of edits.

    Args:
        num_edits: N.
        settings: How edits are divided.
        calibrate: Returns GECE; None where neither the division nor the loss reads it.
        generator: Draws the random division; nothing else does.
        device: Where the tensors go.
    """
    found = calibrate() if calibrate is not None else None
    uncertainty = None if found is None else 1.0 - found.confidence
    zeros = torch.zeros(num_edits, dtype=torch.float64)
    g = zeros if found is None else scaled(found.gece, settings.cluster_scale)
    labels = _labels(num_edits, settings, found, generator)
    counts = {} if found is None else dict(found.counts)
    if settings.division == "none":
        counts["edits_without_label"] = num_edits
    else:
        counts["empty_experts"] = settings.num_experts - len(set(labels))
    numbers = {} if found is None else {"gece_nonpositive_products": found.nonpositive_share}
    return Division(
        torch.tensor(labels, device=device),
        g.to(device),
        None if found is None else found.gece.to(device),
        None if uncertainty is None else uncertainty.to(device),
        counts,
        numbers,
    )


def _labels(
    num_edits: int,
    settings: DivisionSettings,
    found: Calibration | None,
    generator: torch.Generator,
) -> list[int]:
    if settings.division == "none":
        return [-1] * num_edits
    if settings.division == "random":
        scores = shuffled_scores(num_edits, generator)
    else:
        assert found is not None
        is_gece = settings.division == "gece"
        scores = found.gece if is_gece else 1.0 - found.confidence
    return divide(
        scores if settings.cluster_scale == "raw" else scaled(scores, settings.cluster_scale),
        settings.num_experts,
        head_share=settings.head_share,
        balance_weight=settings.cluster_balance_weight,
    )
