"""One module in training by Adam, as `assemblies/trainer.py` asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainables.interfaces import State, TrainingRecord
from trainables.optimise import load_moments, moments_of

Loss = Callable[[Sequence[TrainingRecord], torch.Generator], Tensor]


class ModuleTraining:
    """Trains those parameters of a module that require gradients."""

    def __init__(self, module: nn.Module, loss: Loss, *, training_lr: float, max_norm: float):
        """Set up Adam.

        Args:
            module: What is trained.
            loss: Of some records, with all that is drawn for it from a generator; scalar.
            training_lr: Adam's rate.
            max_norm: A longer gradient is cut to this.
        """
        self._parameters = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._loss, self._max_norm = loss, max_norm
        self._optimiser = torch.optim.Adam(self._parameters.values(), lr=training_lr)

    def step(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        """Take one step on `records`; the loss before it."""
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(records, generator)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters.values(), self._max_norm)
        self._optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def loss(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        """The loss on `records`."""
        return float(self._loss(records, generator))

    def network(self) -> State:
        """What is trained, by name."""
        return State({name: each.detach() for name, each in self._parameters.items()})

    def state(self) -> State:
        """What is trained, and Adam's moments."""
        state = State()
        state.nest("network", self.network())
        state.nest("adam", State(moments_of(self._optimiser, self._parameters)))
        return state

    def load(self, state: State) -> None:
        """Go on from what `state` gave."""
        take(self._parameters, state.inner("network"))
        load_moments(self._optimiser, self._parameters, state.inner("adam").tensors)


@torch.no_grad()
def take(parameters: dict[str, nn.Parameter], network: State) -> None:
    """Write a trained network into the parameters of the same names."""
    for name, value in network.tensors.items():
        parameters[name].copy_(value)
