"""Auxiliary losses of routers; pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def balance_loss(gates: Tensor, top_k: int) -> Tensor:
    """Penalty that is 1 when inputs are spread evenly and E / top_k when `top_k` experts take all.

    Source: the auxiliary loss of Switch Transformers (arXiv:2101.03961), E sum_e f_e P_e, which
    MEMoE v1 (arXiv:2405.19086, Section 3.2 and Appendix D) adopts for its top-k selection. P_e is
    the mean gate. Switch routes to one expert and has f_e as the share of inputs sent to e; here
    f_e is the share of assignments, `top_k` per input, which is the same at top_k 1.

    Args:
        gates: Softmax over all experts before the top-k selection, (N, E); one row per routed
            token or prompt, padding already removed.
        top_k: Experts per input, 1 <= top_k <= E.

    Returns:
        Scalar in the dtype of `gates`, differentiable through P_e alone.

    Raises:
        ValueError: If `top_k` is outside [1, E].
    """
    num_experts = gates.shape[-1]
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k is {top_k}; it must lie in [1, {num_experts}]")
    chosen = gates.detach().topk(top_k, dim=-1).indices.flatten()
    counts = torch.nn.functional.one_hot(chosen, num_experts).sum(0)  # not bincount: it waits
    share = counts.to(gates.dtype) / len(chosen)
    return num_experts * (share * gates.mean(0)).sum()
