"""Answers, moves and makes tensors above autograd as a torch with GPUs would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.devices.memory import CPU, Devices

_FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class Functions(TorchFunctionMode):
    """Handles what asks for a device, names one, or hands a tensor's values to Python."""

    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self._devices = devices
        get: Any = Tensor
        self._handlers: dict[Any, Callable[..., Any]] = {
            torch.device: self._device,
            get.device.__get__: devices.of,
            get.is_cuda.__get__: lambda tensor: devices.of(tensor).type == "cuda",
            get.is_cpu.__get__: lambda tensor: devices.of(tensor).type == "cpu",
            get.grad.__set__: self._set_grad,
            Tensor.get_device: self._index,
            torch.get_device: self._index,
            Tensor.to: self._to,
            Tensor.cuda: self._cuda,
            Tensor.cpu: self._cpu,
            Tensor.type_as: lambda tensor, other: self._to(tensor, other),
            Tensor.numpy: self._numpy,
            Tensor.__array__: self._numpy,
            Tensor.tolist: self._tolist,
            Tensor.__deepcopy__: self._deepcopy,
            torch.nn.functional.one_hot: self._one_hot,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = self._handlers.get(func)
        if handler is not None:
            return handler(*args, **kwargs)
        if kwargs.get("device") is not None:
            return self._placed(func, args, kwargs)
        result = self._called(func, args, kwargs)
        if func is Tensor.new_tensor:
            self._from_host(result, self._devices.of(args[0]), "new_tensor")
        return result

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        devices = self._devices
        before, devices.arguments = devices.arguments, (args, *kwargs.values())
        try:
            return func(*args, **kwargs)
        finally:
            devices.arguments = before

    def _placed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `func`, which was told where its result shall lie."""
        target = self._devices.named(kwargs["device"])
        if target.type == "meta":
            return func(*args, **kwargs)
        if target.type == "cuda" and isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if func in _FROM_DATA and args and isinstance(args[0], Tensor):
            rest = {name: value for name, value in kwargs.items() if name != "requires_grad"}
            return self._to(args[0], *args[1:], **rest)
        with self._devices.making(target):
            result = func(*args, **{**kwargs, "device": CPU})
            if target.type == "cuda" and func in _FROM_DATA:
                if func is not torch.tensor:
                    result = result.clone()  # of memory that NumPy may own
                self._from_host(result, target, func.__name__)
        self._devices.put(result, target)
        return result

    def _from_host(self, made: Tensor, target: torch.device, cause: str) -> None:
        self._devices.put(made, target)
        self._devices.pass_bytes(CPU, target, made.nbytes, cause, True)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = _without_index(args, kwargs)
        copies = kwargs.pop("copy", False)
        if args and isinstance(args[0], Tensor):
            wanted: tuple[Any, ...] = self._devices.of(args[0]), args[0].dtype, False, None
        else:
            wanted = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype, non_blocking, layout = wanted
        source = self._devices.of(tensor)
        target = source if device is None else self._devices.named(device)
        if "meta" in (source.type, target.type):
            return tensor.to(*args, **kwargs)
        if source == target:
            layout = layout or torch.preserve_format
            return tensor.to(dtype=dtype or tensor.dtype, copy=copies, memory_format=layout)
        return self.moved(tensor, target, dtype or tensor.dtype, bool(non_blocking))

    def moved(
        self, tensor: Tensor, target: torch.device, dtype: torch.dtype, non_blocking: bool = False
    ) -> Tensor:
        """A copy of `tensor` on `target`; gradients come back to where it lies."""
        if torch.is_grad_enabled() and tensor.requires_grad:
            result: Tensor = _Move.apply(tensor, self, target, dtype, non_blocking)
            return result
        source = self._devices.of(tensor)
        with self._devices.making(target), torch.no_grad():
            made: Tensor = torch.ops.aten._to_copy.default(tensor, dtype=dtype)
        self._devices.pass_bytes(source, target, made.nbytes, "to", not non_blocking)
        return made

    def _cuda(self, tensor: Tensor, device: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        return self._to(tensor, self._devices.named("cuda" if device is None else device))

    def _cpu(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._to(tensor, CPU)

    def _device(self, *args: Any, **kwargs: Any) -> torch.device:
        args, kwargs = _without_index(args, kwargs)
        return torch.device(*args, **kwargs)

    def _index(self, tensor: Tensor) -> int:
        index = self._devices.of(tensor).index
        return -1 if index is None else index

    def _numpy(self, tensor: Tensor, *args: Any, force: bool = False, **kwargs: Any) -> Any:
        place = self._devices.of(tensor)
        if place.type == "cuda" and not force:
            raise TypeError(
                f"can't convert {place} device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        return self._to(tensor, CPU).numpy(force=force)

    def _tolist(self, tensor: Tensor) -> Any:
        self._devices.pass_bytes(
            self._devices.of(tensor), CPU, tensor.nbytes, "tolist", is_waited=True
        )
        with self._devices.silent():
            return tensor.tolist()

    def _deepcopy(self, tensor: Tensor, memo: Any) -> Any:
        made = Tensor.__deepcopy__(tensor, memo)
        self._devices.put(made, self._devices.of(tensor))
        return made

    def _one_hot(self, tensor: Tensor, num_classes: int = -1) -> Tensor:
        # CUDA trusts a given number of classes, the CPU looks for the largest index.
        with self._devices.silent():
            result: Tensor = self._called(torch.nn.functional.one_hot, (tensor, num_classes), {})
        if num_classes < 0 and self._devices.of(tensor) != CPU:
            self._devices.wait("one_hot")
        return result

    def _set_grad(self, tensor: Tensor, grad: Tensor | None) -> None:
        if grad is not None and self._devices.of(grad) != self._devices.of(tensor):
            raise self._devices.mix(
                f"a gradient on {self._devices.of(grad)} of a tensor on {self._devices.of(tensor)}"
            )
        tensor.grad = grad


class _Move(torch.autograd.Function):
    """A copy to another device, whose gradient comes back."""

    @staticmethod
    def forward(
        ctx: Any,
        tensor: Tensor,
        functions: Functions,
        target: torch.device,
        dtype: torch.dtype,
        non_blocking: bool,
    ) -> Tensor:
        ctx.functions, ctx.dtype = functions, tensor.dtype
        ctx.source = functions._devices.of(tensor)
        return functions.moved(tensor.detach(), target, dtype, non_blocking)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.functions.moved(grads[0].detach(), ctx.source, ctx.dtype), *[None] * 4


def _without_index(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments in which a bare number that names a GPU is a device instead."""
    if args and type(args[0]) is int:
        args = (torch.device("cuda", args[0]), *args[1:])
    if type(kwargs.get("device")) is int:
        kwargs = {**kwargs, "device": torch.device("cuda", kwargs["device"])}
    return args, dict(kwargs)
