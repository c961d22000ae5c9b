"""One network in training: problems, their gradients, and Adam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.assemblies.trained_editor.problems import Problem
from trainables.assemblies.trained_editor.rules import RuledNetworks
from trainables.backbones.hidden_states.module_gradients import ModuleFactors
from trainables.interfaces import State, TrainingRecord
from trainables.optimise import load_moments, moments_of


@dataclass(frozen=True)
class TrainingSettings:
    """How a step is taken.

    Attributes:
        edits_at_once: Edits of one problem.
        problems_per_step: Problems whose mean gradient a step takes.
        training_lr: Adam's rate on the networks.
        rate_lr: Adam's rate on what the rule itself has to learn.
        max_norm: Largest norm of a gradient of all parameters; longer ones are cut to it.
    """

    edits_at_once: int
    problems_per_step: int
    training_lr: float
    rate_lr: float
    max_norm: float


class Judge(Protocol):
    """Poses problems to networks, and judges what they do."""

    def problem(
        self, records: Sequence[TrainingRecord], draws: torch.Generator
    ) -> tuple[Problem, dict[str, ModuleFactors]]:
        """A problem of the edits of `records`, and their factors."""
        ...

    def judged(
        self, problem: Problem, changes: Mapping[str, Tensor], *, is_training: bool
    ) -> tuple[float, dict[str, Tensor]]:
        """The loss after `changes`, and in training its gradient by each of them."""
        ...


class Training:
    """The networks in training: Adam, with a rate for the networks and one for the rule's own."""

    def __init__(self, networks: RuledNetworks, judge: Judge, settings: TrainingSettings) -> None:
        self.networks, self._judge, self._settings = networks, judge, settings
        self._optimiser = torch.optim.Adam(
            [
                {"params": list(networks.networks.parameters()), "lr": settings.training_lr},
                {"params": list(networks.rule.rates()), "lr": settings.rate_lr},
            ]
        )
        groups = self._optimiser.param_groups
        self._numbers = [str(n) for n in range(sum(len(group["params"]) for group in groups))]

    def step(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        """One step on the mean gradient of some problems; their mean loss before it."""
        settings = self._settings
        self._optimiser.zero_grad(set_to_none=True)
        total, count = 0.0, settings.problems_per_step
        for start in range(0, len(records), settings.edits_at_once):
            own = records[start : start + settings.edits_at_once]
            problem, factors = self._judge.problem(own, generator)
            changes = dict(self.networks.changes(factors))
            loss, gradients = self._judge.judged(problem, changes, is_training=True)
            self.networks.pull_back(factors, {k: g / count for k, g in gradients.items()})
            total += loss / count
        nn.utils.clip_grad_norm_(self.networks.parameters(), settings.max_norm)
        self._optimiser.step()
        return total

    def loss(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        """The mean loss of these records, as many at once as in training.

        The last problem may have fewer: each counts by its records.
        """
        total, size = 0.0, self._settings.edits_at_once
        for start in range(0, len(records), size):
            own = records[start : start + size]
            problem, factors = self._judge.problem(own, generator)
            changes = dict(self.networks.changes(factors))
            loss, _ = self._judge.judged(problem, changes, is_training=False)
            total += loss * len(own) / len(records)
        return total

    def network(self) -> State:
        """Networks and rule."""
        return self.networks.state()

    def state(self) -> State:
        """Networks, rule and Adam's moments."""
        state = State()
        state.nest("networks", self.networks.state())
        state.nest("adam", State(moments_of(self._optimiser, self._numbers)))
        return state

    def load(self, state: State) -> None:
        """Go on from what `state` gave."""
        self.networks.load(state.inner("networks"))
        load_moments(self._optimiser, self._numbers, state.inner("adam").tensors)
