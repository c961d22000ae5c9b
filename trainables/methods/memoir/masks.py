"""The masks of MEMOIR: which columns of the memory a prompt names, and whose mask it is near to."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.interfaces import PromptBatch, State

Pooling = Literal["centred_mean", "mean", "last"]

_AT_ONCE = (
    1024  # masks that are compared: they lie in memory as bytes, and are multiplied as floats
)


class Masks:
    """One mask for each edit, and what the mask of a prompt is made by.

    Attributes:
        rows: (N, F) bool.
        owners: Of each edit, the first one with its mask.
        centre: Mean over unrelated prompts of `pooled`, (F,); None: not known yet.
    """

    def __init__(
        self,
        width: int,
        num_active: int,
        pooling: Pooling,
        overlap_threshold: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """No edit yet; draws the permutation.

        Args:
            width: F.
            num_active: k, the columns of a mask.
            pooling: What a prompt's pattern is made of; see the method's Config.
            overlap_threshold: Least share of k that two masks of one fact have in common.
            generator: Draws the permutation.
            device: Where the masks lie.
        """
        self._permutation = torch.randperm(width, generator=generator)
        self._num_active, self._pooling = num_active, pooling
        self._threshold = overlap_threshold
        self._device = device
        self.rows = torch.zeros(0, width, dtype=torch.bool, device=device)
        self.owners: list[int] = []
        self.centre: Tensor | None = None

    @property
    def wants_centre(self) -> bool:
        """Whether the mean of unrelated prompts is taken off, and not known yet."""
        return self._pooling == "centred_mean" and self.centre is None

    def add(self, mask: Tensor) -> None:
        """Take the mask (F,) of the next edit."""
        same = (self.rows == mask).all(1).nonzero()[:, 0].tolist()
        self.owners.append(self.owners[same[0]] if same else len(self.owners))
        self.rows = torch.cat([self.rows, mask[None]])

    def named(self, inputs: Tensor, prompts: PromptBatch, counted: Tensor) -> Tensor:
        """The columns that each prompt names, (B, F) bool.

        Args:
            inputs: a_t, (B, T, F).
            prompts: The rows.
            counted: Tokens that count in a mean, (B, T) bool.
        """
        if self._pooling == "last":
            pooled = inputs[torch.arange(len(inputs), device=inputs.device), prompts.prompt_ends]
        else:
            pooled = pooled_mean(inputs, counted)
        if self._pooling == "centred_mean" and self.centre is not None:
            pooled = pooled - self.centre
        return named_columns(pooled, self._num_active, self._permutation)

    @torch.no_grad()
    def nearest(self, inputs: Tensor, prompts: PromptBatch, counted: Tensor) -> Tensor:
        """The edit whose mask shares most with each prompt's, (B,); -1: none is near enough."""
        patterns = self.named(inputs, prompts, counted).float()
        shared = torch.cat([patterns @ rows.float().T for rows in self.rows.split(_AT_ONCE)], 1)
        most, edit = (shared / self._num_active).max(1)
        owners = torch.tensor(self.owners, device=edit.device)[edit]
        # A hair below: a share of k may lie on the threshold itself.
        return torch.where(most >= self._threshold - 1e-6, owners, -1)

    def forget(self) -> None:
        """Drop all edits."""
        self.rows, self.owners = self.rows[:0], []

    def state(self) -> State:
        """All of it."""
        tensors = {"permutation": self._permutation, "rows": self.rows}
        if self.centre is not None:
            tensors["centre"] = self.centre
        return State(tensors, {"owners": list(self.owners)})

    def load(self, state: State) -> None:
        """Take what `state` gave."""
        owners: Any = state.values["owners"]
        self.owners = list(owners)
        self._permutation = state.tensors["permutation"].cpu().clone()
        self.rows = state.tensors["rows"].to(self._device).clone()
        centre = state.tensors.get("centre")
        self.centre = None if centre is None else centre.to(self._device).clone()


def named_columns(pooled: Tensor, num_active: int, permutation: Tensor) -> Tensor:
    """The columns that k = `num_active` entries of each row name, (B, F) bool.

    Args:
        pooled: (B, F); of each row the entries of largest size count.
        num_active: k.
        permutation: Column of each entry, (F,).
    """
    largest = pooled.abs().topk(num_active, dim=1).indices
    named = torch.zeros_like(pooled, dtype=torch.bool)
    return named.scatter(1, permutation.to(largest.device)[largest], True)


def pooled_mean(inputs: Tensor, counted: Tensor) -> Tensor:
    """Mean of `inputs` (B, T, F) over the tokens of `counted` (B, T), (B, F) float32 or wider."""
    wide = torch.promote_types(inputs.dtype, torch.float32)
    weights = counted.to(wide)[..., None]
    return (inputs.to(wide) * weights).sum(1) / weights.sum(1)


def through(
    memory: Tensor, masks: Tensor, route: Tensor, inputs: Tensor, outputs: Tensor
) -> Tensor:
    """`outputs` (B, T, D), and what the memory adds to the rows that have a route.

    Args:
        memory: W_m, (D, F).
        masks: Of all edits, (N, F) bool.
        route: The edit whose mask each row takes, (B,); -1: none.
        inputs: a_t, (B, T, F).
        outputs: W a_t.
    """
    is_near = route >= 0
    if not bool(is_near.any()):
        return outputs
    masked = inputs[is_near].to(memory) * masks[route[is_near]][:, None]
    total = outputs.clone()
    total[is_near] += nn.functional.linear(masked, memory).to(outputs.dtype)
    return total
