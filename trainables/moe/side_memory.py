"""Side memories: masked copies of one FFN output projection, and how a prompt activates them.

A memory is stored as its delta D_i = W_i - W_org, so that an unused one changes nothing, bit for
bit. The activation of memory i for a prompt x, with a_t the projection's input at token t, is

    delta_i(x) = mean over prompt tokens t of |D_i a_t|_2 / unit.

Sources: WISE (arXiv:2405.14768), which trains a margin between edited and unrelated prompts on it;
ARM (Serial Lifelong Editing via Mixture of Knowledge Experts), Eq. 2-6.

Choices where the papers are silent:
- Means are over prompt tokens alone, in training as at inference, where there is no target; those
  that the caller calls attention sinks are left out.
- `unit` is 1 for margins in the published absolute numbers, which are bound to the activations of
  LLaMA2-7B, or the norm of the residual stream that enters the FFN (`residual`), which transfers.
- `activation: silu_difference` puts the FFN's activation function around both outputs before
  their difference, as the public code of WISE; `silu_output` is the norm of the memory's output
  behind that function. The value inside the FFN, as Eq. 2 is worded, is not offered: only the
  output projection is copied, so it is the same number for all experts and selects nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.interfaces import State

Activation = Literal["linear", "silu_difference", "silu_output"]
MarginUnit = Literal["absolute", "residual"]
HingeMean = Literal["all", "positive"]

_NO_ACTIVATION = 1e-12  # in units: below, a memory does not act on a prompt at all


@dataclass(frozen=True)
class Margins:
    """alpha, beta and gamma of Eq. 5, in the unit of the activations.

    Attributes:
        far: alpha, the most that an unrelated prompt may activate.
        edit: beta, the least that an edited prompt should.
        gap: gamma, by how much the edited prompt should be ahead.
    """

    far: float
    edit: float
    gap: float


@dataclass(frozen=True)
class Measure:
    """How an activation is measured: rule, unit, and the FFN's activation function."""

    rule: Activation
    unit: float
    function: Callable[[Tensor], Tensor]

    def activations(self, shift: Tensor, outputs: Tensor, mask: Tensor) -> Tensor:
        """Activations (B,) of one memory per row.

        Args:
            shift: D_i a_t, (B, T, D).
            outputs: W_org a_t, (B, T, D); only the rules with an activation function read it.
            mask: True on the tokens that count, (B, T).
        """
        if self.rule == "silu_difference":
            shift = self.function(outputs + shift) - self.function(outputs)
        elif self.rule == "silu_output":
            shift = self.function(outputs + shift)
        norms = torch.linalg.vector_norm(shift.float(), dim=-1)
        weights = mask.to(norms)
        return (norms * weights).sum(1) / weights.sum(1) / self.unit


class SideMemories:
    """Deltas (D, F) of the memories and the masks of the entries that each may train."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.deltas: list[Tensor] = []
        self.masks: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.deltas)

    def add(self, mask: Tensor) -> None:
        """A new memory that changes nothing yet, trainable where `mask` (D, F) is True."""
        # float32 whatever the backbone: small steps would be lost in bfloat16.
        self.deltas.append(torch.zeros(mask.shape, device=mask.device))
        self.masks.append(mask)

    def activations(self, inputs: Tensor, outputs: Tensor, mask: Tensor) -> Tensor:
        """delta_i(x) of every memory, (B, E).

        Args:
            inputs: a_t, (B, T, F).
            outputs: W_org a_t, (B, T, D).
            mask: True on the tokens that count, (B, T).
        """
        each = [
            self.measure.activations(shifted(inputs, delta), outputs, mask) for delta in self.deltas
        ]
        return torch.stack(each, dim=1)

    def state(self) -> State:
        """All deltas and masks."""
        state = State()
        for index, (delta, mask) in enumerate(zip(self.deltas, self.masks, strict=True)):
            state.tensors |= {f"delta/{index}": delta, f"mask/{index}": mask}
        return state

    def load(self, state: State, device: torch.device) -> None:
        """Take the memories of `state`."""
        count = sum(name.startswith("delta/") for name in state.tensors)
        self.deltas = [state.tensors[f"delta/{i}"].to(device).clone() for i in range(count)]
        self.masks = [state.tensors[f"mask/{i}"].to(device).clone() for i in range(count)]


def shifted(inputs: Tensor, delta: Tensor) -> Tensor:
    """D a_t, float32: (B, T, F) and (D, F) -> (B, T, D)."""
    return torch.nn.functional.linear(inputs.float(), delta)


def added(inputs: Tensor, deltas: Sequence[Tensor], route: Tensor) -> Tensor:
    """What the routed memory of each row adds to the projection's output, (B, T, D) float32.

    Args:
        inputs: a_t, (B, T, F).
        deltas: One (D, F) for each memory.
        route: Memory of each row, (B,); -1: none, and exact zeros.
    """
    used = route.unique().tolist()
    if len(used) == 1 and used[0] >= 0:
        return shifted(inputs, deltas[used[0]])
    total = inputs.new_zeros(*inputs.shape[:2], len(deltas[0]), dtype=torch.float32)
    for index in used:
        if index >= 0:
            rows = route == index
            total[rows] = shifted(inputs[rows], deltas[index])
    return total


def random_masks(
    num_masks: int,
    shape: tuple[int, int],
    mask_ratio: float,
    generator: torch.Generator,
    *,
    is_disjoint: bool = False,
) -> Tensor:
    """Masks (num_masks, D, F), True on the share `mask_ratio` of entries that a memory trains.

    Independent draws per entry and mask, as WISE; or, disjoint, one draw that gives each entry to
    at most one mask.

    Raises:
        ValueError: If disjoint masks do not fit: num_masks * mask_ratio above 1.
    """
    if not is_disjoint:
        return torch.rand(num_masks, *shape, generator=generator) < mask_ratio
    if num_masks * mask_ratio > 1 + 1e-9:
        raise ValueError(f"{num_masks} disjoint masks of {mask_ratio:g} do not fit")
    draw = torch.rand(*shape, generator=generator)
    edges = torch.arange(num_masks).view(-1, 1, 1) * mask_ratio
    return (draw >= edges) & (draw < edges + mask_ratio)


def margin_loss(
    edited: Tensor,
    unrelated: Tensor,
    pairs: tuple[Tensor, Tensor],
    margins: Margins,
    average: HingeMean = "all",
) -> Tensor:
    """L_mar of Eq. 5: edited prompts activate by beta, unrelated ones by at most alpha.

    max(0, beta - delta(x_e)) + max(0, delta(x_o) - alpha) + max(0, gamma - [delta(x_e) -
    delta(x_o)]), each term a mean over its rows or pairs. Without unrelated rows only the first.

    Args:
        edited: delta(x_e), (N,).
        unrelated: delta(x_o), (M,).
        pairs: Rows of `edited` and of `unrelated` that belong to one edit, (P,) each.
        margins: alpha, beta and gamma.
        average: Over all, or as the public code of WISE over what lies above zero.
    """
    loss = _hinge(margins.edit - edited, average)
    if not len(unrelated):
        return loss
    ahead = edited[pairs[0]] - unrelated[pairs[1]]
    return loss + _hinge(unrelated - margins.far, average) + _hinge(margins.gap - ahead, average)


def memory_loss(owner: Tensor, trained: Tensor, gap: float) -> Tensor:
    """L_mem of Eq. 6: the expert in training stays behind the one that owns an earlier prompt.

    Args:
        owner: delta_j(x_m), (M,).
        trained: delta_i(x_m), (M,).
        gap: gamma.

    Returns:
        Mean of max(0, gamma - [delta_j(x_m) - delta_i(x_m)]).
    """
    return (gap - (owner - trained)).clamp_min(0).mean()


def selection_scores(edited: Tensor, unrelated: Tensor) -> Tensor:
    """S_i = (delta_i(x_e) - delta_i(x_o)) / delta_i(x_e) of Eq. 2; 0 where nothing is activated.

    Args:
        edited: delta_i(x_e), (..., E).
        unrelated: delta_i(x_o), (..., E).
    """
    is_active = edited > _NO_ACTIVATION
    return torch.where(is_active, 1 - unrelated / torch.where(is_active, edited, 1.0), 0.0)


def selected_expert(
    scores: Tensor, selection_threshold: float, generator: torch.Generator
) -> tuple[int, bool]:
    """The expert that learns an edit, and whether it was drawn: Eq. 3.

    The largest S_i if it is above epsilon; otherwise the edit is new to all experts, and one is
    drawn evenly from all of them (Uni(0, K) read as the K experts 0..K-1).
    """
    if float(scores.max()) > selection_threshold:
        return int(scores.argmax()), False
    return int(torch.randint(len(scores), (1,), generator=generator)), True


def _hinge(values: Tensor, average: HingeMean) -> Tensor:
    positive = values.clamp_min(0)
    if average == "all":
        return positive.mean()
    return positive.sum() / (values > 0).sum().clamp_min(1)
