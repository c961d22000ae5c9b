"""The same backbone several times over in one process: modules of its own around shared tensors."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import chain
from typing import Any

from trainables.interfaces import Backbone


def seen_apart(backbone: Backbone, own_layer: int | None = None) -> Backbone:
    """`backbone` with modules of its own, so that nothing put into one is met in the other.

    Args:
        backbone: Must be pristine.
        own_layer: Layer whose tensors are copied as well, for who writes to them; None: all
            tensors are shared.
    """
    own = set[int]()
    if own_layer is not None:
        layer = backbone.model.get_submodule(backbone.layer_path(own_layer))
        own = {id(tensor) for tensor in chain(layer.parameters(), layer.buffers())}
    tensors = chain(backbone.model.parameters(), backbone.model.buffers())
    # What is copied already, as far as `deepcopy` is told.
    shared: dict[int, Any] = {id(each): each for each in tensors if id(each) not in own}
    return replace(backbone, model=copy.deepcopy(backbone.model, shared))
