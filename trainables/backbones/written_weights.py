"""Weights of several linear modules that a method changes in place, with their pristine values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.backbones.master_weight import MasterWeight
from trainables.backbones.surgery import KeptWeights
from trainables.errors import EditDiverged
from trainables.interfaces import Backbone


class WrittenWeights:
    """The weights of some modules, summed up in float32 or wider and handed on rounded.

    Each has a name of the method's own choice, which is its key in a state.
    """

    def __init__(self, backbone: Backbone, modules: Mapping[str, str]) -> None:
        """Keep the pristine values.

        Args:
            backbone: Whose weights are written.
            modules: Dotted path of a module for each name.
        """
        paths = {name: f"{path}.weight" for name, path in modules.items()}
        self._is_transposed = backbone.family.is_transposed
        self._kept = KeptWeights(backbone.model, paths.values())
        self._masters = {
            name: MasterWeight(self._kept.parameter(path)) for name, path in paths.items()
        }

    @torch.no_grad()
    def add(self, name: str, change: Tensor) -> None:
        """Add `change` (out, in), in float64, to the weight of this name.

        Raises:
            EditDiverged: If the change is not finite.
        """
        if not bool(torch.isfinite(change).all()):
            raise EditDiverged(f"the change of weight {name} is not finite")
        master = self._masters[name]
        # GPT-2 stores (in, out), Llama (out, in); the family says which.
        master.set(master.value.double() + self.oriented(change))

    @contextmanager
    def shifted(self, changes: Mapping[str, Tensor]) -> Iterator[dict[str, nn.Parameter]]:
        """Within the block the weights are `changes` (out, in) further, and may take gradients.

        Behind it they are what they were, bit for bit. What is yielded are the backbone's own
        parameters, by the method's names; `oriented` turns a gradient of theirs to (out, in).

        Raises:
            EditDiverged: If a change is not finite.
        """
        before = {name: self._masters[name].value.detach().clone() for name in changes}
        parameters = {name: self._masters[name].parameter for name in changes}
        try:
            for name, change in changes.items():
                self.add(name, change)
                parameters[name].requires_grad_(True)
            yield parameters
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(False)
                parameter.grad = None
                self._masters[name].set(before[name])

    def oriented(self, tensor: Tensor) -> Tensor:
        """(out, in) of a tensor that is laid out as the backbone's weights, or back."""
        return tensor.T if self._is_transposed else tensor

    def tensors(self) -> dict[str, Tensor]:
        """The weights, for a state, as `weight/<name>`."""
        return {f"weight/{name}": master.value.detach() for name, master in self._masters.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave."""
        for name, master in self._masters.items():
            master.set(tensors[f"weight/{name}"])

    def restore(self) -> None:
        """Put the pristine values back, bit for bit."""
        self._kept.restore()
        for master in self._masters.values():
            master.reread()

    @property
    def num_bytes(self) -> int:
        """Size of all of them as the backbone holds them."""
        return sum(master.num_bytes for master in self._masters.values())
