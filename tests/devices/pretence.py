"""Enters and leaves the pretence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd import graph as autograd_graph
from torch.optim import optimizer
from torch.utils import _foreach_utils

from tests.devices.functions import Functions
from tests.devices.memory import Devices
from tests.devices.operations import Operations

GPU_BYTES = 24 * 2**30  # of each


@contextmanager
def pretended(num_gpus: int = 1) -> Iterator[Devices]:
    """Within the block this thread has `num_gpus` GPUs, all of them empty at first.

    Tensors that are made inside go on pretending afterwards, unseen.
    """
    devices = Devices(num_gpus)
    with ExitStack() as stack:
        for name, answer in _answers(devices).items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        stack.enter_context(
            patch.object(optimizer, "_group_tensors_by_device_and_dtype", _grouping(devices))
        )
        # Other threads do not pretend.
        stack.enter_context(patch.dict(os.environ, {"HF_DEACTIVATE_ASYNC_LOAD": "1"}))
        stack.callback(_forget)
        _forget()
        stack.enter_context(Operations(devices))
        functions = stack.enter_context(Functions(devices))
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", _pass(functions)))
        yield devices


def _answers(devices: Devices) -> dict[str, Any]:
    """What `torch.cuda` says, by the name of the function."""

    def live(device: Any = None) -> int:
        return devices.live[devices.named(0 if device is None else device)]

    def peak(device: Any = None) -> int:
        return devices.peak[devices.named(0 if device is None else device)]

    def nothing(*_: Any, **__: Any) -> None:
        return None

    return {
        "is_available": lambda: True,
        "device_count": lambda: len(devices.gpus),
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_, **__: True,
        "get_device_name": lambda *_: "pretended",
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: SimpleNamespace(
            name="pretended", total_memory=GPU_BYTES, major=9, minor=0
        ),
        "mem_get_info": lambda device=None: (GPU_BYTES - live(device), GPU_BYTES),
        "memory_allocated": live,
        "memory_reserved": live,
        "max_memory_allocated": peak,
        "max_memory_reserved": peak,
        "reset_peak_memory_stats": lambda *_: devices.reset_peak(),
        "set_device": nothing,
        "set_per_process_memory_fraction": nothing,
        "empty_cache": nothing,
        "synchronize": lambda *_: devices.wait("synchronize"),
    }


def _pass(functions: Functions) -> Any:
    """A backward pass whose hooks and recomputed parts pretend too.

    The function that begins it is being handled, and while a mode handles it, it sees nothing else.
    """
    run = autograd_graph._engine_run_backward

    def passed(*args: Any, **kwargs: Any) -> Any:
        if torch._C._len_torch_function_stack():
            return run(*args, **kwargs)
        with functions:
            return run(*args, **kwargs)

    return passed


def _grouping(devices: Devices) -> Any:
    """As an optimiser groups its tensors, which torch does below Python by their real device."""

    def grouped(lists: list[list[Any]], with_indices: bool = False) -> Any:
        places = [devices.of(tensor) for tensor in lists[0]]
        found = {}
        for place in dict.fromkeys(places):
            chosen = [index for index, each in enumerate(places) if each == place]
            part = [[each[index] for index in chosen] if each else [] for each in lists]
            groups = _foreach_utils._group_tensors_by_device_and_dtype(part, with_indices)
            for (_, dtype), (tensors, indices) in groups.items():
                found[place, dtype] = tensors, [chosen[index] for index in indices]
        return found

    return grouped


def _forget() -> None:
    """Let transformers ask anew whether there are GPUs: it remembers the answer."""
    from transformers.utils import import_utils

    for name, value in vars(import_utils).items():
        asks = any(word in name for word in ("cuda", "gpu", "accelerator", "bf16", "flash"))
        if asks and hasattr(value, "cache_clear"):
            value.cache_clear()
