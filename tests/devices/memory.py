"""Where each storage pretends to lie, and what has been counted so far."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

CPU = torch.device("cpu")
_MARK = "_pretended"
_HERE = str(Path(__file__).parent) + os.sep
_OURS = tuple(str(Path(__file__).parents[2] / name) + os.sep for name in ("trainables", "tests"))

Place: TypeAlias = tuple[torch.device, torch.device]


@dataclass(frozen=True)
class Sync:
    """One wait of the host for a GPU.

    Attributes:
        cause: The operation that waited.
        line: The innermost line of this project that led to it; in a backward pass, the line that
            began the pass and the node of the graph.
    """

    cause: str
    line: str


class _Held:
    """The bytes of one storage on a pretended GPU, until the storage goes."""

    __slots__ = ("device", "devices", "size")

    def __init__(self, devices: Devices, device: torch.device, size: int) -> None:
        self.devices, self.device, self.size = devices, device, size
        devices.live[device] += size
        devices.peak[device] = max(devices.peak[device], devices.live[device])

    def __del__(self) -> None:
        self.devices.live[self.device] -= self.size


class Devices:
    """The pretended GPUs of one block.

    Attributes:
        gpus: They, in order.
        syncs: Waits of the host, in order.
        mixes: What each operation on two devices said.
        copied: Bytes that passed from one device to another.
        live: Bytes of all storages on each GPU.
        peak: Most bytes that lay on each GPU since `reset_peak`.
    """

    def __init__(self, num_gpus: int) -> None:
        self.gpus = tuple(torch.device("cuda", index) for index in range(num_gpus))
        self.syncs: list[Sync] = []
        self.mixes: list[str] = []
        self.copied: Counter[Place] = Counter()
        self.live: Counter[torch.device] = Counter()
        self.peak: Counter[torch.device] = Counter()
        self.target: torch.device | None = None  # of all that is made at present
        self.arguments: tuple[Any, ...] = ()  # of the function that runs at present
        self._is_silent = False

    def named(self, device: torch.device | str | int) -> torch.device:
        """`device` with its index, as torch reads it.

        Raises:
            RuntimeError: If there is no such GPU.
        """
        if isinstance(device, int):
            device = torch.device("cuda", device)
        device = torch.device(device)
        if device.type != "cuda":
            return device
        index = device.index or 0
        if index >= len(self.gpus):
            raise RuntimeError(f"CUDA error: invalid device ordinal {index}")
        return self.gpus[index]

    def of(self, tensor: Tensor) -> torch.device:
        """Where `tensor` pretends to lie."""
        with torch._C.DisableTorchFunction():
            while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                tensor = torch._C._functorch.get_unwrapped(tensor)
            return self.at(tensor)

    def at(self, tensor: Tensor) -> torch.device:
        """As `of`, where nothing asks for torch functions any more."""
        if tensor.is_meta:
            return tensor.device
        # A storage lives and dies with its Python object: a reused address bears no old mark.
        held: _Held | None = getattr(tensor.untyped_storage(), _MARK, None)
        return CPU if held is None else held.device

    def put(self, tensor: Tensor, device: torch.device) -> None:
        """Let a new storage lie on `device`; one that lies on a GPU already stays there."""
        if device.type != "cuda":
            return
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            if getattr(storage, _MARK, None) is None:
                setattr(storage, _MARK, _Held(self, device, storage.nbytes()))

    def wait(self, cause: str, times: int = 1) -> None:
        """Count waits of the host."""
        if not self._is_silent:
            self.syncs += [Sync(cause, own_line())] * times

    def pass_bytes(
        self, source: torch.device, target: torch.device, size: int, cause: str, is_waited: bool
    ) -> None:
        """Count a copy; between two GPUs nobody waits, to host memory always somebody."""
        if source == target:
            return
        self.copied[source, target] += size
        if CPU in (source, target) and (is_waited or target == CPU):
            self.wait(cause)

    def mix(self, told: str) -> RuntimeError:
        """The error of an operation on two devices, which is counted."""
        self.mixes.append(f"{told}, at {own_line()}")
        return RuntimeError(
            f"Expected all tensors to be on the same device, but found {self.mixes[-1]}"
        )

    def beside(self) -> torch.device | None:
        """Where a function makes what it makes of no tensor: on the GPU of its own arguments."""
        found = (self.at(tensor) for tensor in tensors_in(self.arguments))
        return next((place for place in found if place.type == "cuda"), None)

    def reset_peak(self) -> None:
        """Measure `peak` from now on."""
        self.peak = Counter(self.live)

    def copied_bytes(self, source: str, target: str) -> int:
        """Bytes that passed from one kind of device to the other, such as `cuda` to `cpu`."""
        return sum(n for (a, b), n in self.copied.items() if (a.type, b.type) == (source, target))

    @contextmanager
    def making(self, device: torch.device) -> Iterator[None]:
        """Within the block whatever is new lies on `device`."""
        before, self.target = self.target, device
        try:
            yield
        finally:
            self.target = before

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Within the block no wait counts: the CPU's way of doing something, not CUDA's."""
        before, self._is_silent = self._is_silent, True
        try:
            yield
        finally:
            self._is_silent = before


def tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """All tensors of the arguments or results of an operation."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def own_line() -> str:
    """The innermost line of this project, this library left out."""
    frame = sys._getframe(1)
    node = torch._C._current_autograd_node()
    behind = f" in {node.name()}" if node is not None else ""
    while True:
        name = frame.f_code.co_filename
        if name.startswith(_OURS) and not name.startswith(_HERE):
            path = Path(name).relative_to(Path(__file__).parents[2])
            return f"{path}:{frame.f_lineno}{behind}"
        if frame.f_back is None:
            return f"?{behind}"
        frame = frame.f_back
