"""Writes tensors one after another into a safetensors file, so that one at a time is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from trainables.backbones.checkpoints.weight_files import DTYPES

_BLOCK = 8  # the header's length is a multiple of it


def write_tensors(
    path: Path, shapes: Mapping[str, torch.Size], dtype: torch.dtype, made: Iterable[Tensor]
) -> None:
    """A safetensors file.

    Args:
        path: The file to make.
        shapes: Of all tensors, by name.
        dtype: Of all tensors.
        made: The tensors, in the order of `shapes`.
    """
    (name_of_dtype,) = (name for name, each in DTYPES.items() if each == dtype)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {"dtype": name_of_dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _BLOCK)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for shape, tensor in zip(shapes.values(), made, strict=True):
            assert tensor.shape == shape
            assert tensor.dtype == dtype
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
