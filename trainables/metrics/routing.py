"""Scores of which experts take which inputs: consistency, purity, load; pure functions.

A prompt's experts are a vector: the top-1 expert of each of its tokens where a method routes token
by token, a single number where it routes whole prompts. -1 stands for no expert at all.

Dimension letters: L, M tokens of one prompt, N inputs, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def majority_expert(experts: Tensor) -> int:
    """The expert that takes most of `experts` (L,); of several, the one with the lowest number.

    Raises:
        ValueError: If there are none.
    """
    if experts.ndim != 1 or not len(experts):
        raise ValueError(f"experts must be (L,) with L >= 1, not {tuple(experts.shape)}")
    # + 1: bincount takes no -1
    return int(torch.bincount(experts + 1).argmax()) - 1


def routing_consistency(edited: Tensor, rephrased: Tensor) -> float:
    """Share of a rephrase's tokens that go to the expert of the edit, in [0, 1].

    Source: MEMoE v1 (arXiv:2405.19086), Eq. 13 for the same knowledge: "the ground truth for
    generalization test input is the expert processing the corresponding training input", here the
    one that took most of its tokens. For methods that route whole prompts it is 1.0 or 0.0.

    Args:
        edited: Experts of the edit's prompt, (L,).
        rephrased: Experts of the rephrase, (M,).

    Raises:
        ValueError: If one of the two is empty.
    """
    if rephrased.ndim != 1 or not len(rephrased):
        raise ValueError(f"experts must be (M,) with M >= 1, not {tuple(rephrased.shape)}")
    return float((rephrased == majority_expert(edited)).double().mean())


def routing_purity(edited: Tensor) -> float:
    """Share of a prompt's tokens that go to its majority expert, in [1/E, 1]; arguments as above.

    How far one prompt stays whole: `routing_consistency` of an edit with itself.
    """
    return routing_consistency(edited, edited)


def group_consistency(experts: Sequence[Tensor], groups: Sequence[int]) -> float | None:
    """Mean over groups of the share of tokens that go to the group's own expert; None without any.

    Source: MEMoE v1 (arXiv:2405.19086), Eq. 13 for similar knowledge: E_k is "the expert E_k
    handling the majority of knowledge in this group", and the score "the average across all
    groups". The paper's S_k is read as the tokens of all prompts of group k together.

    Args:
        experts: Experts of each prompt, N vectors (L_n,).
        groups: Group of each prompt, N numbers.

    Raises:
        ValueError: If the two differ in length, or a prompt has no tokens.
    """
    if len(experts) != len(groups):
        raise ValueError(f"{len(experts)} prompts for {len(groups)} groups")
    if not experts:
        return None
    members: dict[int, list[Tensor]] = {}
    for vector, group in zip(experts, groups, strict=True):
        members.setdefault(group, []).append(vector)
    shares = [routing_purity(torch.cat(vectors)) for vectors in members.values()]
    return sum(shares) / len(shares)


def largest_load(experts: Sequence[Tensor]) -> float | None:
    """Share of all routed tokens that the busiest expert takes; None where no token has an expert.

    With E experts 1/E is an even load and 1 a collapse to one expert.
    """
    routed = torch.cat([*experts, torch.zeros(0, dtype=torch.long)]).long()
    routed = routed[routed >= 0]
    return float(torch.bincount(routed).max()) / len(routed) if len(routed) else None


def routing_matrix(trained: Tensor, routed: Tensor, num_experts: int) -> Tensor:
    """C (E, E): share of the inputs that expert i learned which go to expert j now.

    Source: LEMoE (arXiv:2406.20030v1), Section 3.2 and Figure 2 (right). A row adds up to 1, or to
    less where some of its inputs go to no expert; the row of an expert that learned nothing is 0.
    `own_expert_rate` is the mean of the diagonal, weighted by the inputs of each expert.

    Args:
        trained: Expert that learned each input, (N,), in [0, E).
        routed: Expert that it is sent to now, (N,), in [-1, E).
        num_experts: E.

    Raises:
        ValueError: If the shapes differ, or an expert lies out of range.
    """
    if trained.shape != routed.shape:
        raise ValueError(f"trained is {tuple(trained.shape)}, routed {tuple(routed.shape)}")
    for name, values in (("trained", trained), ("routed", routed)):
        if len(values) and not (int(values.min()) >= -1 and int(values.max()) < num_experts):
            raise ValueError(f"{name} must lie in [0, {num_experts}), or be -1 for none")
    counts = torch.zeros(num_experts, num_experts, dtype=torch.float64)
    learned = trained >= 0
    totals = torch.bincount(trained[learned], minlength=num_experts).double()
    both = learned & (routed >= 0)
    places = trained[both] * num_experts + routed[both]
    counts.view(-1).index_add_(0, places, torch.ones(len(places), dtype=torch.float64))
    return counts / totals.clamp_min(1)[:, None]
