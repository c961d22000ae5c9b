"""The hook layers of COMEBA-HK, and the gate that decides for which tokens they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class HookLayer:
    """What stands beside one projection.

    Attributes:
        change: W_h - W_0, (D, F) float32 or wider.
        products: Sum of K K^T over all batches, (F, F) float64.
        threshold: Alpha.
    """

    change: Tensor
    products: Tensor
    threshold: float

    def answered(self, keys: Tensor, output: Tensor, prompt_mask: Tensor | None) -> Tensor:
        """The projection's output (B, T, D) with W_h k at the tokens that pass.

        Args:
            keys: What enters the projection, (B, T, F).
            output: W_0 k, (B, T, D).
            prompt_mask: Prompt tokens, (B, T) bool; None: W_h answers for every token.
        """
        added = self.added(keys)
        if prompt_mask is None:
            return output + added.to(output)
        return gated(output, added, prompt_mask, self.threshold)

    def added(self, keys: Tensor) -> Tensor:
        """W_h k - W_0 k of keys (..., F), (..., D)."""
        return keys.to(self.change) @ self.change.T


def gated(output: Tensor, added: Tensor, prompt_mask: Tensor, threshold: float) -> Tensor:
    """`output`, and at the tokens that pass what is `added` there; each (B, T, D)."""
    passes = z_scores(added.norm(dim=-1), prompt_mask) >= threshold
    return torch.where(passes[..., None].to(output.device), output + added.to(output), output)


def largest_z(sizes: Tensor, prompt_mask: Tensor) -> Tensor:
    """The largest of each prompt's z scores, (B,); -inf where none is defined. As `z_scores`."""
    return z_scores(sizes, prompt_mask).nan_to_num(nan=-math.inf).amax(1)


def z_scores(sizes: Tensor, prompt_mask: Tensor) -> Tensor:
    """How far each prompt token lies above the mean of its prompt, in sample deviations.

    Args:
        sizes: m of each token, (B, T).
        prompt_mask: (B, T) bool.

    Returns:
        (B, T); NaN, which passes no threshold, off the prompts and where a prompt has one token or
        no deviation.
    """
    mask = prompt_mask.to(sizes.device)
    counts = mask.sum(1, keepdim=True)
    means = torch.where(mask, sizes, 0.0).sum(1, keepdim=True) / counts
    centred = torch.where(mask, sizes - means, 0.0)
    deviations = (centred.square().sum(1, keepdim=True) / (counts - 1)).sqrt()
    return torch.where(mask & (deviations > 0), centred / deviations, math.nan)
