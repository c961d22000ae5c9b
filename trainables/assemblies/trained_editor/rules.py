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
        self._device = device
        self._numbers = {path: number for number, path in enumerate(paths)}

    def changes(self, factors: Mapping[str, ModuleFactors]) -> Iterator[tuple[str, Tensor]]:
        """Path and change (out, in) of each weight, one after another: together they are large."""
        for path, own in factors.items():
            with torch.no_grad():
                pseudo = self.networks.pseudo(path, own)
                change = self.rule.shift(self._numbers[path], own.keys, pseudo)
            yield path, change

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
        """Copy what `state` gave into the parameters, to go on training them."""
        self._parts.load_state_dict(state.tensors)

    def freeze(self, state: State) -> None:
        """Be what `state` gave, for good; nothing is copied that lies on the device already."""
        tensors = {name: tensor.to(self._device) for name, tensor in state.tensors.items()}
        self._parts.load_state_dict(tensors, assign=True)
        self._parts.requires_grad_(False)
