"""Checks that a backbone is, bit for bit, what it was when it was loaded."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from trainables.errors import RestoreError

_WORDS = 2**22  # at a time: 100 MiB beside them


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
        self._hashes = {name: _digest(tensor) for name, tensor in _tensors(model)}
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
            if (touched or is_full) and _digest(tensor) != self._hashes[name]:
                raise RestoreError(f"{name!r} differs from its pristine value")
            self._marks[name] = _mark(tensor)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _mark(tensor: Tensor) -> tuple[int, int]:
    return tensor._version, tensor.data_ptr()


def _digest(tensor: Tensor) -> str:
    """What tells any other content apart; a GPU's weights are not copied to the host for it."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if tensor.device.type != "cpu":
        return f"{checksum(flat):016x}"
    return hashlib.sha256(flat.numpy().data).hexdigest()


def checksum(content: Tensor) -> int:
    """Sum of all words of 4 bytes, each times another odd number, modulo 2**64.

    Any change of a single word changes it, as odd numbers divide nothing modulo 2**64; changes of
    several go unnoticed once in 2**64 times. It is no protection against a forger.

    Args:
        content: (N,) uint8, on any device; it stays there.
    """
    if content.storage_offset() % 4:
        content = content.clone()  # words begin where their number is whole
    rest = len(content) % 4
    words = content[: len(content) - rest].view(torch.int32)
    parts = [*words.split(_WORDS), content[len(content) - rest :]]
    total, first = torch.zeros((), dtype=torch.int64, device=content.device), 0
    for part in parts:
        odd = torch.arange(first, first + len(part), device=content.device) * 2 + 1
        total += (part.long() * odd).sum()
        first += len(part)
    return int(total) % 2**64
