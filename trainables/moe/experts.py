"""Banks of experts: all experts that one edit batch adds, with their weights stacked.

Source: LEMoE (arXiv:2406.20030v1), Section 4.1 (an FFN beside the frozen FFN) and Appendix C.4 (a
LoRA module in its place); MEMoE v1 (arXiv:2405.19086), Eq. 10 (a linear map). A bank holds one or
two tensors however many experts it has, so that the optimiser steps over two tensors and a few
matrix products serve all experts.

Choices where the paper is silent:
- FFN expert: `up` starts as a copy of the backbone's, `down` at zero, so that a new expert changes
  nothing. Gate projection and biases are the backbone's own, shared and frozen: the paper lists
  `up_proj.weight` and `down_proj.weight` alone as trained (Appendix B.3).
- Linear expert: zero at first. It maps the FFN's input (W_e of MEMoE v1, Eq. 10, read literally as
  D x D), or what enters the frozen down projection (a second down projection).
- LoRA expert: x -> B (A x) * lora_alpha / lora_rank; A is uniform in +-1/sqrt(D) (Kaiming with
  a = sqrt(5), as LoRA is commonly initialised), B zero.
- Weights are float32 or wider: in bfloat16 a step of 2e-4 on a weight of .02 would be rounded away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from trainables.interfaces import Backbone

ExpertShape = Literal["ffn", "dense", "down"]
Merging = Literal[
    "top_k", "soft", "soft_outputs"
]  # the best experts, or all: parameters or outputs

# Elements of one expert's matrix above which experts are run one by one on views: a batched product
# would copy the weights of the experts in use and pad every group to the largest one.
_LARGE = 2**20


@dataclass(frozen=True)
class FrozenFfn:
    """The parts of the backbone's FFN that its experts share; referenced, never copied.

    Attributes:
        up: Weight of the up projection as (F, D), whatever the family stores.
        activation: Element-wise nonlinearity.
        gate: Gate projection of a gated FFN, (..., D) -> (..., F); None without one.
        up_bias: (F,) or None.
    """

    up: Tensor
    activation: Callable[[Tensor], Tensor]
    gate: Callable[[Tensor], Tensor] | None = None
    up_bias: Tensor | None = None

    @classmethod
    def of_layer(cls, backbone: Backbone, layer: int) -> FrozenFfn:
        """The parts of the FFN of decoder layer `layer`."""
        family, parent = backbone.family, backbone.model.get_submodule(backbone.layer_path(layer))
        up = parent.get_submodule(family.up)
        weight, bias = up.weight, getattr(up, "bias", None)
        assert isinstance(weight, Tensor)
        # GPT-2 stores (in, out), the others (out, in).
        weight = weight.T if family.is_transposed else weight
        gate: Callable[[Tensor], Tensor] | None = None
        if family.is_fused:  # Phi-3; views, so that both still follow the one weight
            gate_weight, weight = weight.chunk(2)
            gate_bias, bias = (None, None) if bias is None else bias.chunk(2)
            gate = partial(nn.functional.linear, weight=gate_weight, bias=gate_bias)
        elif family.gate:
            gate = parent.get_submodule(family.gate)
        return cls(weight, parent.get_submodule(family.activation), gate, bias)

    @property
    def expert_dtype(self) -> torch.dtype:
        """The dtype of the trained weights beside this FFN."""
        return torch.promote_types(self.up.dtype, torch.float32)

    def middle(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """For inputs x (..., D) the function from up x to what enters the down projection.

        The gate of a gated FFN is computed once, whatever the function is called with.
        """
        bias: Tensor | float = 0.0 if self.up_bias is None else self.up_bias
        if self.gate is None:
            return lambda up: self.activation(up + bias)
        weight = self.activation(self.gate(x.to(self.up.dtype))).to(self.expert_dtype)
        if self.up_bias is None:
            return lambda up: up * weight
        return lambda up: (up + bias) * weight

    def hidden(self, x: Tensor) -> Tensor:
        """What enters the frozen down projection, (..., F), for inputs x (..., D)."""
        return self.middle(x)((x.to(self.up.dtype) @ self.up.T).to(self.expert_dtype))


class FfnBank(nn.Module):
    """E experts down_e(act(gate x) * up_e x), or down_e(act(up_e x)) without a gate; H = F."""

    def __init__(
        self, num_experts: int, frozen: FrozenFfn, *, merges_parameters: bool = False
    ) -> None:
        """Copy `up` for each expert.

        Args:
            num_experts: E.
            frozen: The backbone's FFN.
            merges_parameters: One expert of gate-weighted parameters answers, instead of the
                gated sum of what all experts answer. Exact where a token's gates sum to 1: the
                shared gate projection and biases are then merged as well.
        """
        super().__init__()
        up = frozen.up.detach().to(frozen.expert_dtype).repeat(num_experts, 1, 1)
        self.inner = nn.Parameter(up)  # (E, F, D)
        self.outer = nn.Parameter(torch.zeros_like(up))  # (E, F, D), the transposed down projection
        self._frozen = frozen
        self._sum = merged_sum if merges_parameters else gated_sum

    @property
    def num_experts(self) -> int:
        """Experts in this bank."""
        return len(self.inner)

    def forward(self, x: Tensor, gates: Tensor, is_open: Tensor | None = None) -> Tensor:
        """Gated sum of the experts, (B, T, D); `gates` are (B, E) or (B, T, E).

        `is_open` is `gates != 0` on the host, where it is known there.
        """
        return self._sum(x, gates, self.inner, self.outer, self._frozen.middle, is_open)


class LinearBank(nn.Module):
    """E experts W_e z, where z is the FFN's input (H = D) or what its down projection reads."""

    def __init__(self, num_experts: int, frozen: FrozenFfn, *, reads_hidden: bool) -> None:
        """Zero weights; with `reads_hidden` they stand beside the down projection (H = F)."""
        super().__init__()
        ffn_size, width = frozen.up.shape
        self.outer = nn.Parameter(  # (E, H, D), transposed
            torch.zeros(
                num_experts,
                ffn_size if reads_hidden else width,
                width,
                dtype=frozen.expert_dtype,
                device=frozen.up.device,
            )
        )
        self._frozen = frozen
        self._reads_hidden = reads_hidden

    @property
    def num_experts(self) -> int:
        """Experts in this bank."""
        return len(self.outer)

    def forward(self, x: Tensor, gates: Tensor, is_open: Tensor | None = None) -> Tensor:
        """As `FfnBank.forward`."""
        z = self._frozen.hidden(x) if self._reads_hidden else x
        return linear_sum(z, gates, self.outer, is_open).to(x.dtype)


class LoraBank(nn.Module):
    """E experts x -> B_e (A_e x) * scale; H = R."""

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        lora_rank: int,
        *,
        lora_alpha: float | None,
        generator: torch.Generator,
        like: Tensor,
    ) -> None:
        """Draw A and zero B.

        Args:
            num_experts: E.
            hidden_size: D.
            lora_rank: R.
            lora_alpha: The sum is scaled by lora_alpha / lora_rank; None: by 1, at every rank.
            generator: Draws A, on the CPU.
            like: Gives device and, if wider than float32, dtype.
        """
        super().__init__()
        shape = (num_experts, lora_rank, hidden_size)
        self.inner = nn.Parameter(drawn_inner(shape, generator, like))  # (E, R, D): A
        self.outer = nn.Parameter(torch.zeros_like(self.inner))  # (E, R, D): B transposed
        self.scale = 1.0 if lora_alpha is None else lora_alpha / lora_rank

    @property
    def num_experts(self) -> int:
        """Experts in this bank."""
        return len(self.inner)

    def forward(self, x: Tensor, gates: Tensor, is_open: Tensor | None = None) -> Tensor:
        """As `FfnBank.forward`."""
        return gated_sum(x, gates * self.scale, self.inner, self.outer, _unchanged, is_open)


def drawn_inner(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """A new A of a low-rank map, uniform in +-1/sqrt(D), for a shape (..., R, D).

    It is drawn on the CPU, so that a seed means the same on every device; `like` gives the device
    and, if wider than float32, the dtype.
    """
    drawn = (torch.rand(shape, generator=generator) * 2 - 1) / shape[-1] ** 0.5
    return drawn.to(like.device, torch.promote_types(like.dtype, torch.float32))


Bank = FfnBank | LinearBank | LoraBank
Middle = Callable[[Tensor], Callable[[Tensor], Tensor]]


def bank_of(
    shape: ExpertShape, num_experts: int, frozen: FrozenFfn, *, merges_parameters: bool = False
) -> FfnBank | LinearBank:
    """New experts of a shape: `ffn` as the FFN, `dense` (D x D), `down` a down projection alone.

    For linear experts merging parameters is the gated sum, so that `merges_parameters` concerns
    `ffn` alone.
    """
    if shape == "ffn":
        return FfnBank(num_experts, frozen, merges_parameters=merges_parameters)
    return LinearBank(num_experts, frozen, reads_hidden=shape == "down")


def gated_sum(
    x: Tensor,
    gates: Tensor,
    inner: Tensor,
    outer: Tensor,
    middle: Middle,
    is_open: Tensor | None = None,
) -> Tensor:
    """sum_e gates_e * outer_e^T middle(inner_e x), the sum of LEMoE Eq. 9; only what a gate opens.

    Args:
        x: (B, T, D).
        gates: (B, E), one route for all tokens of a row, or (B, T, E).
        inner: (E, H, D).
        outer: (E, H, D).
        middle: Called with some rows (..., D) of x; the function that it returns maps inner_e x,
            (..., H), to what enters `outer`, so that parts shared by experts are computed once.
        is_open: `gates != 0` on the host; None: the host waits for it.

    Returns:
        (B, T, D) in the dtype of x.
    """
    shape = x.shape
    x_in, gates = _as_rows(x, gates, inner)
    is_open = _on_host(gates, is_open)
    chosen = is_open.any(1).nonzero()[:, 0]
    if len(chosen) == len(gates):
        return _rows_sum(x_in, gates, is_open, inner, outer, middle).view(shape).to(x.dtype)
    total = torch.zeros_like(x_in)
    if len(chosen):
        rows = _beside(chosen, x_in)
        part = _rows_sum(x_in[rows], gates[rows], is_open[chosen], inner, outer, middle)
        total = total.index_copy(0, rows, part)
    return total.view(shape).to(x.dtype)


def merged_sum(
    x: Tensor,
    gates: Tensor,
    inner: Tensor,
    outer: Tensor,
    middle: Middle,
    is_open: Tensor | None = None,
) -> Tensor:
    """(sum_e gates_e outer_e)^T middle((sum_e gates_e inner_e) x), with the shapes of `gated_sum`.

    Each linear map of the merged expert is the gated sum of the experts' linear maps, so that no
    row needs weights of its own. All gates count, whatever is open.
    """
    x_in, rows_gates = _as_rows(x, gates, inner)
    num_experts, width, _ = inner.shape
    weights = rows_gates[:, None, :, None]  # (N, 1, E, 1)
    before = (x_in @ inner.flatten(0, 1).T).view(*x_in.shape[:2], num_experts, width)
    between = middle(x_in)((before * weights).sum(2))  # (N, S, H)
    after = (between[:, :, None] * weights).flatten(-2) @ outer.flatten(0, 1)
    return after.view(x.shape).to(x.dtype)


def linear_sum(z: Tensor, gates: Tensor, outer: Tensor, is_open: Tensor | None = None) -> Tensor:
    """sum_e gates_e outer_e^T z, MEMoE v1 Eq. 10; only what a gate opens is computed.

    Args:
        z: (B, T, H).
        gates: (B, E), one route for all tokens of a row, or (B, T, E).
        outer: (E, H, D).
        is_open: As in `gated_sum`.

    Returns:
        (B, T, D) in the dtype of `outer`.
    """
    rows_z, rows_gates = _as_rows(z, gates, outer)
    total = rows_z.new_zeros(*rows_z.shape[:2], outer.shape[-1])
    is_open = _on_host(rows_gates, is_open)
    weights = outer.unbind()  # indexing's gradient would fill a whole bank for each expert
    for expert in is_open.any(0).nonzero()[:, 0].tolist():
        rows = _beside(is_open[:, expert].nonzero()[:, 0], z)
        own = (rows_z[rows] @ weights[expert]) * rows_gates[rows, expert, None, None]
        total = total.index_add(0, rows, own)
    return total.view(*z.shape[:-1], outer.shape[-1])


def _as_rows(x: Tensor, gates: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (N, S, D) and their gates (N, E) in the experts' dtype; a routed token is a row."""
    x, gates = x.to(like.dtype), gates.to(x.device, like.dtype)
    if gates.dim() == 2:
        return x, gates
    return x.reshape(-1, 1, x.shape[-1]), gates.flatten(0, 1)


def _on_host(gates: Tensor, is_open: Tensor | None) -> Tensor:
    """Which of the rows (N, E) opens which expert, in host memory."""
    if is_open is None:
        return (gates.detach() != 0).cpu()
    return is_open.reshape(gates.shape)


def _beside(index: Tensor, like: Tensor) -> Tensor:
    """An index that was found on the host, on the device of `like`; nobody waits for the copy."""
    return index.to(like.device, non_blocking=True)


def _rows_sum(
    x: Tensor, gates: Tensor, is_open: Tensor, inner: Tensor, outer: Tensor, middle: Middle
) -> Tensor:
    """The gated sum for rows (N, S, D) with at least one open gate each; `is_open` on the host."""
    counts = is_open.sum(0)  # (E,)
    largest, used = int(counts.max()), int((counts > 0).sum())
    # Gathering costs about as much as the products that it saves where it saves under a quarter.
    if 4 * used * largest >= 3 * x.shape[0] * len(inner):
        return _dense(x, gates, inner, outer, middle)
    if inner[0].numel() > _LARGE:
        return _one_by_one(x, gates, is_open, inner, outer, middle)
    return _grouped(x, gates, is_open, inner, outer, middle)


def _dense(x: Tensor, gates: Tensor, inner: Tensor, outer: Tensor, middle: Middle) -> Tensor:
    """All experts on all rows, as two matrix products; the gates scale what lies between."""
    num_experts, width, _ = inner.shape
    before = (x @ inner.flatten(0, 1).T).view(*x.shape[:2], num_experts, width)  # (N, S, E, H)
    between = middle(x[:, :, None])(before) * gates[:, None, :, None]
    return between.flatten(-2) @ outer.flatten(0, 1)


def _one_by_one(
    x: Tensor, gates: Tensor, is_open: Tensor, inner: Tensor, outer: Tensor, middle: Middle
) -> Tensor:
    """Each expert on its own rows, with views of its weights."""
    total = torch.zeros_like(x)
    # unbind: the gradient of indexing would fill a whole bank with zeros for each expert.
    inners, outers = inner.unbind(), outer.unbind()
    for expert in is_open.any(0).nonzero()[:, 0].tolist():
        rows = _beside(is_open[:, expert].nonzero()[:, 0], x)
        own = x[rows]
        between = middle(own)(own @ inners[expert].T) * gates[rows, expert, None, None]
        total = total.index_add(0, rows, between @ outers[expert])
    return total


def _grouped(
    x: Tensor, gates: Tensor, is_open: Tensor, inner: Tensor, outer: Tensor, middle: Middle
) -> Tensor:
    """Rows gathered by expert, groups padded to one size, then two batched products."""
    num_rows, length, width = x.shape
    counts = is_open.sum(0)
    used = counts.nonzero()[:, 0]  # (U,)
    if len(used) < len(inner):
        there = _beside(used, x)
        inner, outer, gates = inner[there], outer[there], gates[:, there]
        is_open, counts = is_open[:, used], counts[used]
    expert, row = is_open.T.nonzero().T  # (P,) each, sorted by expert
    slot = torch.arange(len(row)) - (counts.cumsum(0) - counts)[expert]
    size = int(counts.max())
    # Padding names row 0 with a gate of 0: it adds nothing.
    rows = row.new_zeros(len(used), size).index_put((expert, slot), row)
    rows, expert, slot, row = (_beside(index, x) for index in (rows, expert, slot, row))
    weights = gates.new_zeros(len(rows), size).index_put((expert, slot), gates[row, expert])
    own = x[rows]  # (U, n, S, D)
    before = torch.bmm(own.flatten(1, 2), inner.transpose(1, 2)).view(len(rows), size, length, -1)
    between = middle(own)(before) * weights[:, :, None, None]
    after = torch.bmm(between.flatten(1, 2), outer)  # (U, n * S, D)
    return x.new_zeros(num_rows, length, width).index_add(
        0, rows.flatten(), after.view(-1, length, width)
    )


def _unchanged(x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda projected: projected
