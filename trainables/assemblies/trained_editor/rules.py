"""From factors to changes of the weights and back, by a method's rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.assemblies.trained_editor.networks import FactorNetworks
from trainables.backbones.hidden_states.module_gradients import ModuleFactors
from trainables.interfaces import State


class ShiftRule(Protocol):
    """How a method changes one weight; S tokens of one module."""

    def shift(self, module: int, keys: Tensor, pseudo: tuple[Tensor, Tensor]) -> Tensor:
        """The change (out, in) of the weight of module number `module`."""
        ...

    def pulled_back(
        self, module: int, keys: Tensor, pseudo: tuple[Tensor, Tensor], gradient: Tensor
    ) -> Tensor:
        """A scalar whose gradient by all parameters is that of sum(gradient * shift)."""
        ...

    def rates(self) -> Sequence[nn.Parameter]:
        """What of its own is trained, at a rate of its own."""
        ...

    def parts(self) -> nn.Module:
        """Itself, for a state."""
        ...


class RuledNetworks:
    """Networks and rule together: from factors to changes of the weights, and back."""

    def __init__(
        self,
        networks: FactorNetworks,
        rule: ShiftRule,
        paths: Sequence[str],
        device: torch.device,
    ) -> None:
        self.networks, self.rule = networks, rule
        self._parts = nn.ModuleDict({"networks": networks, "rule": rule.parts().to(device)})
        self._numbers = {path: number for number, path in enumerate(paths)}

    @torch.no_grad()
    def changes(self, factors: Mapping[str, ModuleFactors]) -> dict[str, Tensor]:
        """The change (out, in) of each weight."""
        return {
            path: self.rule.shift(self._numbers[path], own.keys, self.networks.pseudo(path, own))
            for path, own in factors.items()
        }

    def pull_back(
        self, factors: Mapping[str, ModuleFactors], gradients: Mapping[str, Tensor]
    ) -> None:
        """Add to the parameters' gradients what `gradients` by the changes come to."""
        for path, own in factors.items():
            pseudo = self.networks.pseudo(path, own)
            self.rule.pulled_back(self._numbers[path], own.keys, pseudo, gradients[path]).backward()

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that is trained."""
        return self._parts.parameters()

    def state(self) -> State:
        """All that is trained, and the normalisation."""
        return State(dict(self._parts.state_dict()))

    def load(self, state: State) -> None:
        """Take what `state` gave."""
        self._parts.load_state_dict(state.tensors)
        self._parts.requires_grad_(False)
