"""Terms of the balancing constraint loss: rare edits weigh more, head edits move the model less.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors", Eq. 16-20. g are the
normalised GECE scores in [0, 1] (moe/frequency.py), 1 the most long-tailed.

Choices where the paper is silent or contradicts itself:
- Every sum over N edits is a mean here. All three terms share the factor, and AdamW takes the same
  step at any scale of the loss. log f(y|x) is the mean over the target's tokens, so that it does
  not depend on their number; the divergence is a mean over positions for the same reason.
- Eq. 18 has a minus sign, which rewards a model for moving away from what it was, while the text
  calls it a constraint on the parameters. `constraint` adds the divergence, `printed` subtracts it.
- The text says of the coefficient of Eq. 18 that it amplifies long-tail knowledge; as printed it
  falls with g, from 1/2 to 1/(1 + e^gamma_2). The formula is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Sign = Literal["constraint", "printed"]


@dataclass(frozen=True)
class ConstraintSettings:
    """Constants of Eq. 16-20; a term is left out by its flag.

    Attributes:
        frequency_weighting: Weigh edits by Eq. 17; False: all alike, by 1.
        balance_term: Add Eq. 18.
        balance_sign: `constraint` keeps the model near what it was; `printed` the reverse.
        router_term: Add Eq. 19.
        frequency_threshold: tau of Eq. 17.
        frequency_slope: gamma_1 of Eq. 17.
        balance_slope: gamma_2 of Eq. 18.
        focal_power: gamma_3 of Eq. 19.
        balance_weight: Factor of Eq. 18 in Eq. 20, printed as 1.
        router_weight: Factor of Eq. 19 in Eq. 20, printed as 1.
    """

    frequency_weighting: bool
    balance_term: bool
    balance_sign: Sign
    router_term: bool
    frequency_threshold: float
    frequency_slope: float
    balance_slope: float
    focal_power: float
    balance_weight: float
    router_weight: float


def frequency_weight(g: Tensor, threshold: float, slope: float) -> Tensor:
    """w(g) = (1 + tanh(gamma_1 (g - tau))) / 2 of Eq. 17, (N,)."""
    return 0.5 * (1.0 + torch.tanh(slope * (g - threshold)))


def balance_coefficient(g: Tensor, slope: float) -> Tensor:
    """1 / (1 + e^(gamma_2 g)) of Eq. 18, (N,)."""
    return torch.sigmoid(-slope * g)


def focal_term(log_chances: Tensor, power: float) -> Tensor:
    """-(1 - r)^gamma_3 log r of Eq. 19 for each edit, (N,), of log r, its own expert's."""
    # 1 - e^x with x = 0 has no gradient below power 1; r = 1 leaves nothing to learn anyway.
    missing = (-torch.expm1(log_chances)).clamp_min(torch.finfo(log_chances.dtype).tiny)
    return -(missing**power) * log_chances


def row_means(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Mean of `values` (M,) over the positions of each row, (N,); 0 for a row without any."""
    sums = values.new_zeros(num_rows).index_add(0, rows, values)
    # Not bincount: on a GPU the host would wait for it.
    counts = rows.new_zeros(num_rows).index_add(0, rows, torch.ones_like(rows))
    return sums / counts.clamp_min(1)


def divergences(after: Tensor, log_before: Tensor) -> Tensor:
    """KL(f' || f) of Eq. 18 at each position, (M,): logits after, log-probabilities before, (M, V).

    f' is the edited model, f the one before.
    """
    log_after = after.float().log_softmax(-1)
    return (log_after.exp() * (log_after - log_before)).sum(-1)


def balancing_constraint_loss(
    settings: ConstraintSettings,
    *,
    nll: Tensor,
    divergence: Tensor | None,
    log_chances: Tensor | None,
    g: Tensor,
) -> Tensor:
    """L_total of Eq. 20: scalar mean over edits of Eq. 16 + Eq. 18 + Eq. 19.

    Args:
        settings: Constants, and which terms count.
        nll: -log f(y|x) of each edit, (N,).
        divergence: KL of each edit, (N,); read when the balance term counts.
        log_chances: log r of each edit's own expert, (N,); read when the router term counts, None
            where edits have no expert of their own.
        g: Normalised scores, (N,).
    """
    s, g = settings, g.to(nll)
    weights = frequency_weight(g, s.frequency_threshold, s.frequency_slope)
    total = (weights * nll if s.frequency_weighting else nll).mean()
    if s.balance_term and divergence is not None:
        sign = 1.0 if s.balance_sign == "constraint" else -1.0
        held = (balance_coefficient(g, s.balance_slope) * divergence).mean()
        total = total + sign * s.balance_weight * held
    if s.router_term and log_chances is not None:
        total = total + s.router_weight * focal_term(log_chances, s.focal_power).mean()
    return total
