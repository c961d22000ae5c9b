"""Thresholds: that which tells near from far, and one that an edit itself has set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def best_threshold(near: Sequence[Tensor], far: Sequence[Tensor]) -> float:
    """The threshold that keeps most of `near` and leaves out most of `far`.

    It maximises the mean over the kinds in `near` of the share at or above it, plus the mean over
    the kinds in `far` of the share below it. Of the thresholds that do equally well it is the
    middle of the widest gap between two of the values, where others are most likely to fall on the
    right side.

    Args:
        near: Values of each kind that should pass, (N,) each; at least one value in all.
        far: Values of each kind that should not, (M,) each. A kind without any does not count.

    Returns:
        With nothing far, the smallest of `near`.
    """
    passing, failing = _filled(near), _filled(far)
    if not failing:
        return float(torch.cat(passing).min())
    values = torch.cat([*passing, *failing]).unique()
    kept = torch.stack([(kind >= values[:, None]).double().mean(1) for kind in passing]).mean(0)
    left = torch.stack([(kind < values[:, None]).double().mean(1) for kind in failing]).mean(0)
    score = kept + left  # of every threshold from the value before to this one
    gaps = values.diff(prepend=values[:1] - 1.0)
    best = int(torch.where(score >= score.max() - 1e-12, gaps, -1.0).argmax())
    return float(values[best] - gaps[best] / 2)


def just_below(least: float, dtype: torch.dtype) -> float:
    """A hair below a positive activation, for the prompt that had it not to fall short by rounding.

    Of the same prompt alone, beside others or while decoding, the activation differs by what
    rounding in the backbone's `dtype` makes of it: in bfloat16 by some thousandths.
    """
    return least * (1 - max(1e-5, torch.finfo(dtype).eps))


def _filled(kinds: Sequence[Tensor]) -> list[Tensor]:
    return [kind.double().cpu() for kind in kinds if len(kind)]
