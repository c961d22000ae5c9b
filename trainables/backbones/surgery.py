"""Get, replace and restore a submodule or a parameter of a model by its dotted path."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def get_module(model: nn.Module, path: str) -> nn.Module:
    """The submodule at `path`.

    Raises:
        AttributeError: If there is none.
    """
    return model.get_submodule(path)


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put `module` at `path`; returns the one that stood there."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    before = parent.get_submodule(name)
    if isinstance(parent, nn.ModuleList):
        parent[int(name)] = module
    else:
        parent.add_module(name, module)
    return before


class KeptWeights:
    """Pristine copies of weights that a method writes in place.

    Restoring copies the kept values back, never subtracts a delta: subtraction would leave rounding
    behind, and the next trial in the same process would start from another model.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        self._parameters = {path: model.get_parameter(path) for path in paths}
        self._kept = {path: p.detach().clone() for path, p in self._parameters.items()}

    def pristine(self, path: str) -> Tensor:
        """The kept value; do not write to it."""
        return self._kept[path]

    def parameter(self, path: str) -> nn.Parameter:
        """The live parameter at `path`."""
        return self._parameters[path]

    @torch.no_grad()
    def restore(self) -> None:
        """Copy every kept value back and clear gradients."""
        for path, parameter in self._parameters.items():
            parameter.copy_(self._kept[path])
            parameter.requires_grad_(False)
            parameter.grad = None
