"""Merge several weight deltas into one: linear, SLERP, TIES, DARE-TIES, sign, EMR.

A delta is what training added to a frozen weight, tau = W - W_0 (a task vector). All functions are
pure: they take deltas of one shape and return a new tensor. `weights` are the deltas' shares; None
weighs all alike.

Sources: ARM (Serial Lifelong Editing via Mixture of Knowledge Experts), Appendix D.3 and Table 13,
for all of them; TIES: arXiv:2306.01708; DARE: arXiv:2311.03099; EMR: arXiv:2405.17461.

Choices where the sources are silent:
- SLERP and all others act on the deltas. Whole weights that share W_0 are nearly parallel, and
  SLERP of them is the linear mean (Table 13 prints one row of numbers for both). More than two are
  folded in one after the other.
- An entry whose deltas cancel exactly has no sign of its own: TIES gives it the majority sign of
  the whole delta; EMR leaves it 0, as sgn is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Merging = Literal["ties", "linear", "slerp", "dare_ties", "sign"]
Compression = Literal["none", "emr", "ties", "linear", "slerp", "dare_ties", "sign"]

_PARALLEL = 0.9995  # cosine above which the sines of SLERP lose their digits


def merged(
    deltas: Sequence[Tensor],
    rule: Merging,
    *,
    density: float,
    generator: torch.Generator,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """One delta by the named rule; only TIES and DARE-TIES read `density`, DARE-TIES draws.

    A single delta is returned as it is, whatever the rule.
    """
    if len(deltas) == 1:
        return deltas[0].clone()
    if rule == "linear":
        return linear(deltas, weights)
    if rule == "slerp":
        return slerp(deltas, weights)
    if rule == "sign":
        return sign(deltas, weights)
    if rule == "ties":
        return ties(deltas, density, weights)
    return dare_ties(deltas, density, generator, weights)


def compressed(
    deltas: Sequence[Tensor], rule: Compression, *, density: float, generator: torch.Generator
) -> tuple[list[Tensor], int]:
    """What stands for each delta after compression, and the bytes that have to be stored.

    `none` keeps them, EMR restores each from one; any other rule leaves one delta for all, to which
    deltas of zeros, of experts that have learned nothing yet, do not contribute.
    """
    if rule == "none":
        return list(deltas), sum(delta.nbytes for delta in deltas)
    if rule == "emr":
        together = emr(deltas)
        return [together.restored(index) for index in range(len(deltas))], together.num_bytes
    trained = [delta for delta in deltas if bool(delta.any())] or list(deltas[:1])
    one = merged(trained, rule, density=density, generator=generator)
    return [one] * len(deltas), one.nbytes


def linear(deltas: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Weighted mean."""
    stacked = torch.stack(list(deltas))
    return (stacked * _shares(stacked, weights)).sum(0)


def slerp(deltas: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Spherical interpolation of the flattened deltas, folded from the first to the last.

    Of two with shares 1 - t and t and the angle o between them,
    (sin((1 - t) o) a + sin(t o) b) / sin o; linear where the cosine is above .9995 or a delta is 0.
    """
    shares = _shares(torch.stack(list(deltas)), weights).flatten().tolist()
    result, total = deltas[0], shares[0]
    for delta, share in zip(deltas[1:], shares[1:], strict=True):
        total += share
        result = _slerp_pair(result, delta, share / total if total else 0.0)
    return result


def ties(
    deltas: Sequence[Tensor], density: float, weights: Sequence[float] | None = None
) -> Tensor:
    """Trim each delta to its largest entries, elect a sign per entry, average those that agree.

    Args:
        deltas: K tensors of one shape.
        density: Share of entries that trimming keeps, (0, 1].
        weights: Shares of the deltas; they are normalised over the deltas that agree.
    """
    return sign([trimmed(delta, density) for delta in deltas], weights)


def sign(deltas: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """TIES without the trim: the sign of the weighted sum, then the mean of what has that sign."""
    stacked = torch.stack(list(deltas))
    shares = _shares(stacked, weights)
    agrees = (stacked.sign() == elected_sign(stacked * shares)) & (stacked != 0)
    kept = torch.where(agrees, shares, 0.0)
    total = kept.sum(0)
    return (stacked * kept).sum(0) / torch.where(total > 0, total, 1.0)


def dare_ties(
    deltas: Sequence[Tensor],
    density: float,
    generator: torch.Generator,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Drop entries at random, rescale what is left by 1 / density, then elect and average.

    Args:
        deltas: K tensors of one shape.
        density: Chance of an entry to stay, (0, 1].
        generator: Draws on the CPU, so that devices agree.
        weights: As for `ties`.
    """
    _check_density(density)
    kept = []
    for delta in deltas:
        stays = torch.rand(delta.shape, generator=generator) < density
        kept.append(torch.where(stays.to(delta.device), delta / density, 0.0))
    return sign(kept, weights)


def trimmed(delta: Tensor, density: float) -> Tensor:
    """`delta` with all but its largest `density` share of entries, by magnitude, set to 0."""
    _check_density(density)
    num_kept = max(1, round(density * delta.numel()))
    flat = delta.flatten()
    index = flat.abs().topk(num_kept).indices
    return torch.zeros_like(flat).index_copy(0, index, flat[index]).view_as(delta)


def elected_sign(weighted: Tensor) -> Tensor:
    """Sign of the sum over the first axis; an exact 0 takes the majority sign of all entries."""
    signs = weighted.sum(0).sign()
    majority = signs.sum().sign()
    return torch.where(signs == 0, majority, signs)


@dataclass(frozen=True)
class Emr:
    """K deltas as one, with what tells them apart: ARM, Appendix D.3 and Eq. 13.

    Attributes:
        unified: tau_uni, the shape of a delta.
        masks: M_i, (K, ...) bool.
        scales: lambda_i, (K,).
    """

    unified: Tensor
    masks: Tensor
    scales: Tensor

    def restored(self, index: int) -> Tensor:
        """lambda_i M_i tau_uni, which stands for delta `index` (Eq. 13)."""
        return self.scales[index] * self.masks[index] * self.unified

    @property
    def num_bytes(self) -> int:
        """Storage with one bit per mask entry."""
        mask_bytes = (self.masks.numel() + 7) // 8
        return self.unified.nbytes + mask_bytes + self.scales.nbytes


def emr(deltas: Sequence[Tensor]) -> Emr:
    """Elect, mask, rescale.

    tau_uni has the sign of the sum of the deltas and, entry by entry, the largest magnitude among
    those with that sign; M_i keeps the entries in which delta i agrees; lambda_i gives it back its
    mean magnitude. A delta that agrees nowhere, as one of zeros, has scale 0.
    """
    stacked = torch.stack(list(deltas))
    signs = stacked.sum(0).sign()
    unified = (stacked * signs).clamp_min(0).amax(0) * signs
    masks = stacked * unified > 0
    axes = tuple(range(1, stacked.dim()))
    kept = (masks * unified).abs().sum(axes)
    scales = torch.where(kept > 0, stacked.abs().sum(axes) / torch.where(kept > 0, kept, 1.0), 0.0)
    return Emr(unified, masks, scales)


def _slerp_pair(first: Tensor, second: Tensor, share: float) -> Tensor:
    """From `first` at share 0 to `second` at share 1."""
    lengths = first.double().norm() * second.double().norm()
    straight = (1 - share) * first + share * second
    if not float(lengths) > 0:
        return straight
    cosine = float((first.double() * second.double()).sum() / lengths)
    if abs(cosine) > _PARALLEL:
        return straight
    angle = torch.tensor(cosine, dtype=torch.float64).acos()
    weights = torch.stack([((1 - share) * angle).sin(), (share * angle).sin()]) / angle.sin()
    return float(weights[0]) * first + float(weights[1]) * second


def _shares(stacked: Tensor, weights: Sequence[float] | None) -> Tensor:
    """`weights` scaled to sum 1, shaped to multiply the stacked deltas (K, ...)."""
    count = len(stacked)
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count or min(given) < 0 or not sum(given) > 0:
        raise ValueError(f"{count} deltas need as many weights, none below 0; given: {given}")
    shares = stacked.new_tensor(given) / sum(given)
    return shares.view(-1, *[1] * (stacked.dim() - 1))


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise ValueError(f"density is {density:g}; it must lie in (0, 1]")
