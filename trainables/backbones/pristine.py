"""Checks that a backbone is, bit for bit, what it was when it was loaded."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from trainables.errors import RestoreError


class Pristine:
    """Remembers a model's tensors, modules and modes; `check` compares.

    A tensor counts as touched when its version counter or its storage moved since the last check;
    touched tensors are hashed each time, all tensors every `full_every` checks, because a write
    through `.data` leaves no trace in the counter.
    """

    def __init__(self, model: nn.Module, *, full_every: int = 50) -> None:
        self._model = model
        self._full_every = full_every
        self._num_checks = 0
        self._hashes = {name: _sha256(tensor) for name, tensor in _tensors(model)}
        self._marks = {name: _mark(tensor) for name, tensor in _tensors(model)}
        self._modules = {name: id(module) for name, module in model.named_modules()}

    def check(self) -> None:
        """Compare the model with what it was.

        Raises:
            RestoreError: Naming the first difference.
        """
        self._num_checks += 1
        is_full = self._num_checks % self._full_every == 0
        modules = {name: id(module) for name, module in self._model.named_modules()}
        for name in modules.keys() ^ self._modules.keys():
            raise RestoreError(f"module {name!r} was added or removed and not restored")
        for name, module in self._model.named_modules():
            if id(module) != self._modules[name]:
                raise RestoreError(f"module {name!r} was replaced and not restored")
            if module.training:
                raise RestoreError(f"module {name!r} was left in training mode")
            if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
                raise RestoreError(f"module {name!r} was left with a hook")
        for name, tensor in _tensors(self._model):
            if tensor.requires_grad:
                raise RestoreError(f"{name!r} was left requiring gradients")
            touched = _mark(tensor) != self._marks[name]
            if (touched or is_full) and _sha256(tensor) != self._hashes[name]:
                raise RestoreError(f"{name!r} differs from its pristine value")
            self._marks[name] = _mark(tensor)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _mark(tensor: Tensor) -> tuple[int, int]:
    return tensor._version, tensor.data_ptr()


def _sha256(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
