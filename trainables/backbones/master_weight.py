"""Trains and stores a weight of a low-precision backbone in float32.

In float16 Adam's epsilon of 1e-8 is 0 and its first step divides by nothing; in bfloat16 a step
below 1/256 of an entry is rounded away, edit after edit. So whoever writes a backbone's weight
does it on this copy, and the backbone gets it rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class MasterWeight:
    """One weight in float32 or wider; of a backbone that wide, its own parameter.

    Attributes:
        value: What is trained and stored.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        """Take a copy of `parameter` where it is too narrow; nothing is trained yet."""
        wide = torch.promote_types(parameter.dtype, torch.float32)
        self._parameter = parameter
        self._is_own = wide == parameter.dtype
        self._handle: RemovableHandle | None = None
        self.value = parameter
        if not self._is_own:
            self.value = nn.Parameter(parameter.detach().to(wide), requires_grad=False)

    def thaw(self) -> nn.Parameter:
        """Let gradients of the backbone's weight arrive at `value`; returns it."""
        self._parameter.requires_grad_(True)
        if not self._is_own and self._handle is None:
            self.value.requires_grad_(True)
            self._handle = self._parameter.register_post_accumulate_grad_hook(self._take_gradient)
        return self.value

    def freeze(self) -> None:
        """No gradient arrives any more, and none is kept."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        for parameter in (self._parameter, self.value):
            parameter.requires_grad_(False)
            parameter.grad = None

    @torch.no_grad()
    def set(self, value: Tensor) -> None:
        """Take `value`, and hand it to the backbone."""
        self.value.copy_(value)
        self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Hand `value` to the backbone, rounded to its dtype."""
        if not self._is_own:
            self._parameter.copy_(self.value)

    @torch.no_grad()
    def reread(self) -> None:
        """Take what now stands in the backbone."""
        self.freeze()
        if not self._is_own:
            self.value.copy_(self._parameter)

    @property
    def parameter(self) -> nn.Parameter:
        """The backbone's own."""
        return self._parameter

    @property
    def num_bytes(self) -> int:
        """Size of the weight in the backbone's own dtype."""
        return self._parameter.nbytes

    def _take_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.to(self.value.dtype)
        self.value.grad = gradient if self.value.grad is None else self.value.grad + gradient
        parameter.grad = None
