"""Looks at every operation below autograd: where its tensors lie, and whether the host waits.

What torch 2.13 allows, from the list of operations that it generates its own checks from:

- Operations without its check of devices (`device_check: NoCheck`) are those of TensorIterator:
  beside a GPU's tensors a CPU tensor without dimensions may stand, but is not written to.
- `foreach` operations fall back to one tensor after the other: each place of the lists counts.
- `x[index]` and `x[index] = y`: indices lie beside x or on the CPU; those on the CPU are copied to
  the GPU, which waits. A GPU's index for a CPU's tensor raises. y may be a CPU number.
- `copy_` and `_to_copy` go from anywhere to anywhere.
- All others want one device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.devices.memory import CPU, Devices, tensors_in

_META = torch.device("meta")
_COPIES = {"copy_", "_to_copy", "_copy_from", "_foreach_copy_"}
_READS = {"index", "_unsafe_index"}
_WRITES = {"index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
# Waits of the CUDA kernels whose outputs have a size, or an error, that the host must read.
_WAITS = {
    "_local_scalar_dense": 1,
    "equal": 1,
    "nonzero": 1,
    "masked_select": 1,
    "_unique2": 1,
    "unique_dim": 1,
    "unique_consecutive": 1,
    "unique_dim_consecutive": 1,
    "bincount": 2,  # the least value, then the largest
    "_linalg_check_errors": 1,
    "_linalg_eigh": 1,
}


class Operations(TorchDispatchMode):
    """Checks each operation, runs it on the CPU and says where its results lie."""

    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self._devices = devices

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        devices = self._devices
        with torch._C.DisableTorchFunction():
            given = list(tensors_in((*args, *kwargs.values())))
            places = [devices.at(tensor) for tensor in given]
            home = self._home(func, given, places, args, kwargs) if given else devices.beside()
            if home is not None and _is_host_drawn(args, kwargs):
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            result = func(*args, **kwargs)
            target = devices.target or home
            if target is not None and target.type == "cuda":
                on_host = zip(given, places, strict=True)
                kept = [tensor.untyped_storage() for tensor, place in on_host if place == CPU]
                for tensor in tensors_in((result,)):
                    if not any(tensor.untyped_storage() is storage for storage in kept):
                        devices.put(tensor, target)
            return result

    def _home(
        self,
        func: Any,
        given: Sequence[Tensor],
        places: Sequence[torch.device],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> torch.device | None:
        """The GPU that an operation runs on; None: the CPU.

        Raises:
            RuntimeError: If it cannot run, because its tensors lie apart.
        """
        devices, found = self._devices, set(places)
        if found <= {CPU, _META}:
            return None
        name = func._schema.name.removeprefix("aten::")
        if len(found) == 1:
            self._count(name, args, kwargs)
            return found.pop()
        if name in _COPIES:
            self._copy(name, args, kwargs)
            return devices.at(next(tensors_in(args)))
        if name in _READS | _WRITES:
            return self._index(name, args)
        if name.startswith("_foreach"):
            lists = [value for value in (*args, *kwargs.values()) if isinstance(value, list)]
            others = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            rows = [[*place, *others] for place in zip_longest(*lists)]
            homes = {self._one(name, tensors_in(row), allows_numbers=True) for row in rows}
            if len(homes) == 1 or _is_written(func):
                return homes.pop()
            raise NotImplementedError(f"{func} makes tensors on several devices: {homes}")
        home = self._one(name, given, _allows_numbers(func))
        if _is_written(func) and devices.at(args[0]) != home:
            raise devices.mix(f"{name} writes on {devices.at(args[0])} what lies on {home}")
        self._count(name, args, kwargs)
        if name == "where":  # takes no number along with its kernel, so it is copied first
            for number in given:
                devices.pass_bytes(devices.at(number), home, number.nbytes, name, True)
        return home

    def _one(self, name: str, given: Iterable[Tensor], allows_numbers: bool) -> torch.device:
        """The one device of all `given`, but for the CPU's numbers where they are allowed."""
        found = {}
        for tensor in given:
            place = self._devices.at(tensor)
            if not (allows_numbers and tensor.ndim == 0 and place == CPU):
                found[place] = tuple(tensor.shape)
        if len(found) > 1:
            told = " and ".join(f"{place} {shape}" for place, shape in found.items())
            raise self._devices.mix(f"{told} in {name}")
        return next(iter(found), CPU)

    def _copy(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        devices = self._devices
        is_waited = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        pairs = zip(tensors_in(args[:1]), tensors_in(args[1:2]), strict=False)
        for written, read in pairs:
            source, target = devices.at(read), devices.at(written)
            devices.pass_bytes(source, target, written.nbytes, name, is_waited)

    def _index(self, name: str, args: tuple[Any, ...]) -> torch.device:
        devices = self._devices
        home = devices.at(args[0])
        for index in tensors_in((args[1],)):
            place = devices.at(index)
            if place not in (CPU, home):
                raise devices.mix(f"an index on {place} of a tensor on {home} in {name}")
        if name in _WRITES:
            value = args[2]
            place = devices.at(value)
            if place != home and (place != CPU or value.ndim):
                raise devices.mix(f"a value on {place} for a tensor on {home} in {name}")
        if home != CPU:
            self._count(name, args, {})
            copied = [*tensors_in((args[1],))]
            if name in _WRITES and not self._is_filled(name, args):
                copied.append(args[2])
            for tensor in copied:
                devices.pass_bytes(devices.at(tensor), home, tensor.nbytes, name, True)
        return home

    def _is_filled(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether `x[mask] = number` becomes a `masked_fill`, which waits for nothing."""
        accumulates = args[3] if len(args) > 3 else False
        indices = list(tensors_in((args[1],)))
        is_number = args[2].numel() == 1 and self._devices.at(args[2]) == CPU
        is_mask = len(indices) == 1 and indices[0].dtype == torch.bool
        return is_number and is_mask and not accumulates

    def _count(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        devices = self._devices
        if name in _READS | _WRITES:
            if name in _WRITES and self._is_filled(name, args):
                return
            masks = [t for t in tensors_in((args[1],)) if t.dtype in (torch.bool, torch.uint8)]
            devices.wait(f"{name} by a mask", sum(devices.at(mask) != CPU for mask in masks))
        elif name == "repeat_interleave":
            devices.wait(name, int(kwargs.get("output_size") is None))
        elif name in _WAITS:
            if name == "_local_scalar_dense":
                devices.copied[devices.at(args[0]), CPU] += args[0].itemsize
            devices.wait(name, _WAITS[name])


@cache
def _unchecked() -> frozenset[str]:
    """Operations whose devices torch's generated code does not compare, with their overloads."""
    listed = files("torchgen") / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(listed.read_text("utf-8"), yaml.CSafeLoader)
    return frozenset(
        entry["func"].partition("(")[0]
        for entry in entries
        if entry.get("device_check") == "NoCheck"
    )


@cache
def _allows_numbers(func: Any) -> bool:
    schema = func._schema
    name = schema.name.removeprefix("aten::")
    return (f"{name}.{schema.overload_name}" if schema.overload_name else name) in _unchecked()


@cache
def _is_written(func: Any) -> bool:
    """Whether an operation writes to its first argument."""
    arguments = func._schema.arguments
    return bool(arguments) and bool(arguments[0].alias_info and arguments[0].alias_info.is_write)


def _is_host_drawn(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))
