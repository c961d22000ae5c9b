"""Decides which layers of a backbone lie on which GPU, when one GPU is too small for all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from trainables.interfaces import Family


def device_map(
    model: nn.Module,
    family: Family,
    home_layers: Collection[int],
    num_devices: int,
    beside_bytes: float = 0.0,
) -> dict[str, int]:
    """Device of every part; whole layers, the same number of bytes on each as nearly as may be.

    Device 0 is home: embedding, final norm, head and the layers that are edited. All that a method
    makes stands beside these, so it need not know of other devices. The other layers follow in
    runs, the first of them at home too while there is room.

    Args:
        model: The backbone's architecture; its weights are not read and may be on `meta`.
        family: Where its parts are.
        home_layers: Layers that are read or changed from outside, from 0.
        num_devices: At least 2.
        beside_bytes: What the method makes, which takes room at home.
    """
    from accelerate.utils import compute_module_sizes

    decoder = model.get_submodule(family.decoder)
    names = [*_parts(model, ""), *_parts(decoder, f"{family.decoder}.")]
    above = (family.decoder, family.layers)  # not placed as a whole
    placed = {name: 0 for name in names if name not in above}
    sizes: Any = compute_module_sizes(model)
    count = sum(1 for _ in model.get_submodule(family.layers).children())
    layers = [f"{family.layers}.{index}" for index in range(count)]
    placed |= {layers[index]: 0 for index in home_layers}
    share = (sizes[""] + beside_bytes) / num_devices
    left = share - beside_bytes - sum(sizes[name] for name in placed)  # room at home
    away = [name for name in layers if name not in placed]
    while away and sizes[away[0]] <= left:
        left -= sizes[away[0]]
        placed[away.pop(0)] = 0
    total, done = sum(sizes[name] for name in away), 0.0
    for name in away:
        middle = (done + sizes[name] / 2) / total  # in (0, 1)
        placed[name] = 1 + int(middle * (num_devices - 1))
        done += sizes[name]
    return placed


def _parts(module: nn.Module, prefix: str) -> list[str]:
    return [f"{prefix}{name}" for name, _ in module.named_children()]
