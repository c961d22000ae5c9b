"""Chooses the threshold that tells near from far, on examples of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def best_threshold(near: Tensor, far: Sequence[Tensor]) -> float:
    """The threshold that keeps most of `near` and leaves out most of `far`.

    It maximises the share of `near` at or above it plus the mean over the kinds in `far` of the
    share below it. Of the thresholds that do equally well it is the middle of the widest gap
    between two of the values, where others are most likely to fall on the right side.

    Args:
        near: (N,), values that should pass; N >= 1.
        far: Values of each kind that should not, (M,) each; a kind without any does not count.

    Returns:
        With nothing far, the smallest of `near`.
    """
    near, kinds = near.double().cpu(), [kind.double().cpu() for kind in far if len(kind)]
    if not kinds:
        return float(near.min())
    values = torch.cat([near, *kinds]).unique()
    values = torch.cat([values[:1] - 1.0, values])  # below all of them: everything passes
    kept = (near >= values[1:, None]).double().mean(1)
    left = torch.stack([(kind < values[1:, None]).double().mean(1) for kind in kinds]).mean(0)
    score = kept + left  # of any threshold in (values[i], values[i + 1]]
    gaps = torch.where(score >= score.max() - 1e-12, values[1:] - values[:-1], -1.0)
    best = int(gaps.argmax())
    return float((values[best] + values[best + 1]) / 2)
