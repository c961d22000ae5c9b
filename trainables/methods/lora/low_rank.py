"""Low-rank maps beside frozen linear ones, in all decoder layers of a backbone.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685):
h = W_0 x + (alpha / r) B A x, with B zero at first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from trainables.backbones.surgery import get_module, replace_module
from trainables.interfaces import Backbone, State
from trainables.moe.experts import drawn_inner

Modules = Literal["attention", "ffn"]


def adapted_paths(backbone: Backbone, modules: Modules) -> list[str]:
    """Dotted paths of the linear maps that get an adapter, layer by layer.

    `attention`: those that make queries and values; a family that makes queries, keys and values by
    one weight gets one adapter beside it. `ffn`: all of the FFN.
    """
    family = backbone.family
    if modules == "attention":
        names: Sequence[str] = family.query_value
    else:
        own = (family.gate, family.up, family.down)
        names = list(dict.fromkeys(name for name in own if name))  # Phi-3 has gate and up in one
    layers = range(backbone.num_layers)
    return [f"{backbone.layer_path(layer)}.{name}" for layer in layers for name in names]


class LowRank(nn.Module):
    """Stands at a linear map's path: W x + scale * (B A drop(x) + B' A' x), float32 or wider.

    A (R, in) and B (out, R) are trained; A' and B' are those that were kept before, row by row and
    column by column in one matrix each.

    Attributes:
        apart: What gives each row that runs an A and a B of its own, (b, R, in) and (b, out, R);
            None: all rows have those of the map.
    """

    def __init__(
        self,
        frozen: nn.Module,
        lora_rank: int,
        scale: float,
        *,
        is_transposed: bool,
        home: torch.device,
        generator: torch.Generator,
        drop: Callable[[Tensor], Tensor],
    ) -> None:
        """Draw A and zero B.

        Args:
            frozen: Maps (..., in) to (..., out); its weight is (out, in).
            lora_rank: R.
            scale: alpha / R.
            is_transposed: The weight is (in, out), as GPT-2's.
            home: Where A and B lie if the weight does on a disk; else beside it.
            generator: Draws A.
            drop: Dropout in front of A.
        """
        super().__init__()
        weight = frozen.get_parameter("weight")
        size_out, size_in = reversed(weight.shape) if is_transposed else weight.shape
        self.frozen = frozen
        self._shape, self._generator = (lora_rank, size_in), generator
        self._scale, self._drop = scale, drop
        self.apart: Callable[[], tuple[Tensor, Tensor]] | None = None
        like = weight.new_empty(0, device=home) if weight.is_meta else weight
        inner = drawn_inner(self._shape, generator, like)
        self.inner = nn.Parameter(inner)
        self.outer = nn.Parameter(inner.new_zeros(size_out, lora_rank))
        self.kept_inner, self.kept_outer = inner[:0], self.outer.detach()[:, :0]
        self.train(frozen.training)

    @torch.no_grad()
    def keep(self) -> None:
        """Go on with a new A and a zero B; what was learned stays as it is."""
        self.kept_inner = torch.cat([self.kept_inner, self.inner])
        self.kept_outer = torch.cat([self.kept_outer, self.outer], dim=1)
        self.inner.copy_(drawn_inner(self._shape, self._generator, self.inner))
        self.outer.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """The frozen map's output (..., out) and the adapter's."""
        output: Tensor = self.frozen(x)
        wide = x.to(self.inner)
        inner, outer = (self.inner, self.outer) if self.apart is None else self.apart()
        added = (self._drop(wide) @ inner.mT) @ outer.mT
        if len(self.kept_inner):
            added = added + linear(linear(wide, self.kept_inner), self.kept_outer)
        return output + (self._scale * added).to(output)

    def state(self) -> State:
        """A, B, and what was kept of them."""
        tensors = {"inner": self.inner.detach(), "outer": self.outer.detach()}
        if len(self.kept_inner):
            tensors |= {"kept_inner": self.kept_inner, "kept_outer": self.kept_outer}
        return State(tensors)

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Take the matrices of `state`."""
        self.inner.copy_(state.tensors["inner"])
        self.outer.copy_(state.tensors["outer"])
        if "kept_inner" in state.tensors:
            self.kept_inner = state.tensors["kept_inner"].to(self.inner)
            self.kept_outer = state.tensors["kept_outer"].to(self.outer)


class LowRankMaps:
    """The low-rank maps beside some linear maps of a backbone; absent until `attach`.

    Attributes:
        num_trained: Numbers in A and B of all maps.
    """

    def __init__(
        self,
        backbone: Backbone,
        paths: Sequence[str],
        lora_rank: int,
        lora_alpha: float,
        *,
        generator: torch.Generator,
        drop: Callable[[Tensor, str], Tensor],
    ) -> None:
        """Keep the settings; nothing is drawn or replaced yet.

        Args:
            backbone: Its own weights stay frozen.
            paths: Of the linear maps.
            lora_rank: R.
            lora_alpha: The maps are scaled by lora_alpha / R.
            generator: Draws every A.
            drop: Dropout of an input, given the path.
        """
        self._backbone = backbone
        self._paths = tuple(paths)
        self._rank, self._scale = lora_rank, lora_alpha / lora_rank
        self._generator, self._drop = generator, drop
        self._maps: dict[str, LowRank] = {}
        shapes = (backbone.model.get_parameter(f"{path}.weight").shape for path in paths)
        self.num_trained = sum(lora_rank * sum(shape) for shape in shapes)

    @property
    def is_attached(self) -> bool:
        """True from `attach` until `remove`."""
        return bool(self._maps)

    def attach(self) -> None:
        """Put a new map beside each linear one; they change nothing before they are trained."""
        for path in self._paths:
            self._maps[path] = LowRank(
                get_module(self._backbone.model, path),
                self._rank,
                self._scale,
                is_transposed=self._backbone.family.is_transposed,
                home=self._backbone.device,
                generator=self._generator,
                drop=lambda x, path=path: self._drop(x, path),  # type: ignore[misc]
            )
            replace_module(self._backbone.model, path, self._maps[path])

    def keep(self) -> None:
        """Freeze what was learned so far, and go on with new maps beside it."""
        for low_rank in self._maps.values():
            low_rank.keep()

    def thaw(self) -> dict[str, nn.Parameter]:
        """Train A and B of all maps; returns them by name."""
        parameters = self._parameters()
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return parameters

    def freeze(self) -> None:
        """Train nothing, until `thaw`."""
        for parameter in self._parameters().values():
            parameter.requires_grad_(False)
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """A and B of all maps, by name."""
        return {name: parameter.detach() for name, parameter in self._parameters().items()}

    @torch.no_grad()
    def set(self, tensors: Mapping[str, Tensor]) -> None:
        """Take A and B of all maps, named as in `tensors`."""
        for name, parameter in self._parameters().items():
            parameter.copy_(tensors[name])

    def set_apart(self, stacks: Mapping[str, Tensor], edits: Tensor) -> None:
        """From now on row n meets the maps of edit `edits[n]`, until `set_together`.

        Args:
            stacks: A and B of each of N edits, (N, ...), by the names of `tensors`.
            edits: For each row of the batch, (B,). Rows may run some at a time, but not packed.
        """
        micro_batch = self._backbone.micro_batch

        def of_running(inner: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
            running = edits if micro_batch.running is None else edits[micro_batch.running]
            if len(running) == len(inner):  # all edits in their order
                return inner, outer
            return inner[running.to(inner.device)], outer[running.to(outer.device)]

        for path, low_rank in self._maps.items():
            own = stacks[f"{path}/inner"], stacks[f"{path}/outer"]
            low_rank.apart = partial(of_running, *own)

    def set_together(self) -> None:
        """From now on all rows meet the maps themselves."""
        for low_rank in self._maps.values():
            low_rank.apart = None

    def state(self) -> State:
        """All maps; empty before `attach`."""
        state = State()
        for path, low_rank in self._maps.items():
            state.nest(path, low_rank.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`, with all maps frozen."""
        self.remove()
        if state.values:
            self.attach()
            for path, low_rank in self._maps.items():
                low_rank.load(state.inner(path))
            self.freeze()

    def remove(self) -> None:
        """Put the linear maps back in their places and forget all others."""
        for path, low_rank in self._maps.items():
            replace_module(self._backbone.model, path, low_rank.frozen)
        self._maps = {}

    def _parameters(self) -> dict[str, nn.Parameter]:
        found = {}
        for path, low_rank in self._maps.items():
            found[f"{path}/inner"], found[f"{path}/outer"] = low_rank.inner, low_rank.outer
        return found
