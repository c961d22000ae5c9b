"""The same backbone several times over in one process: one layer of its own, all else shared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor, nn

from trainables.backbones.surgery import get_module
from trainables.interfaces import Backbone


def seen_apart(backbone: Backbone, layer: int, *, owns_down: bool = False) -> Backbone:
    """`backbone` with modules of its own at one layer, so that two edits there do not meet.

    Args:
        backbone: Must be pristine.
        layer: Decoder layer that is going to be edited. Nothing may be put in, or hung on,
            anywhere else.
        owns_down: Whether the FFN's output projection there has tensors of its own, for who writes
            to them. All other tensors are shared.
    """
    path = backbone.layer_path(layer).split(".")
    model = part = _shallow(backbone.model)
    for name in path[:-1]:
        part._modules[name] = part = _shallow(part.get_submodule(name))
    down = get_module(backbone.model, backbone.down_path(layer)) if owns_down else None
    part._modules[path[-1]] = _deep(part.get_submodule(path[-1]), down)
    return replace(backbone, model=model)


def _shallow(module: nn.Module) -> nn.Module:
    """A module with the same children, which may be replaced in one of the two alone."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made


def _deep(module: nn.Module, owned: nn.Module | None) -> nn.Module:
    shared: list[Any] = [each.config for each in module.modules() if hasattr(each, "config")]
    own = set() if owned is None else {id(each) for each in _tensors(owned)}
    shared += [each for each in _tensors(module) if id(each) not in own]
    # What `deepcopy` is told it has copied already.
    made: nn.Module = copy.deepcopy(module, {id(each): each for each in shared})
    return made


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
