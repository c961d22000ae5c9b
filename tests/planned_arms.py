"""Arms as tables see them, made of planned trials that nobody ran: every score is the same."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate import CONTEXT, PROVENANCE, Arm, Section, estimate
from analysis.metrics import METRICS
from orchestrator.planning.plan import TrialSpec

SCORES = {name: estimate([0.5]) for name in METRICS}


def arm_of(trial: TrialSpec) -> Arm:
    """The arm of a planned trial."""
    return made_arm(
        trial.arm,
        str(trial.method["name"]),
        swept=trial.swept,
        published=trial.published,
        protocol=trial.protocol,
        num_layers=int(trial.backbone["num_layers"]),
        hidden_size=int(trial.backbone["hidden_size"]),
        context={"backbone": str(trial.backbone["name"]), "dataset": str(trial.dataset["name"])},
    )


def made_arm(name: str, method: str, **values: object) -> Arm:
    """An arm with these values, and nothing in the others."""
    rest: dict[str, object] = {"num_layers": None, "hidden_size": None, **values}
    return Arm(
        name=name,
        method=method,
        ablation="made_up",
        seeds=(0,),
        state="",
        scores=SCORES,
        before={},
        errors=(),
        **rest,  # type: ignore[arg-type]
    )


def section(arms: Sequence[Arm]) -> Section:
    """All of them in one section, that of the first one's backbone and data."""
    context = {name: "" for name in CONTEXT} | dict(arms[0].context)
    return Section(context, {}, tuple(arms), {name: () for name in PROVENANCE}, 0)
