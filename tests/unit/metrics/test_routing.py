"""Consistency, purity, load and the matrix of experts, on vectors short enough to count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor

from trainables.metrics import routing

EXPERTS = st.lists(st.integers(0, 4), min_size=1, max_size=12).map(tensor)


def test_majority_expert_of_a_tie_is_the_one_with_the_lowest_number() -> None:
    assert routing.majority_expert(tensor([3, 1, 1, 3, 0])) == 1
    assert routing.majority_expert(tensor([-1, -1, 2])) == -1
    with pytest.raises(ValueError, match="L >= 1"):
        routing.majority_expert(torch.zeros(0, dtype=torch.long))


def test_routing_consistency_is_the_rephrases_share_of_the_edits_expert() -> None:
    # the edit's tokens go to expert 2 (3 of 4); of the rephrase's five tokens two do
    assert routing.routing_consistency(tensor([2, 2, 0, 2]), tensor([2, 1, 2, 0, 0])) == 0.4
    assert routing.routing_consistency(tensor([1]), tensor([1])) == 1.0  # whole prompts
    assert routing.routing_consistency(tensor([1]), tensor([-1])) == 0.0
    with pytest.raises(ValueError, match="M >= 1"):
        routing.routing_consistency(tensor([1]), torch.zeros(0, dtype=torch.long))


def test_routing_purity_is_the_share_of_the_majority_expert() -> None:
    assert routing.routing_purity(tensor([2, 2, 0, 2])) == 0.75


def test_group_consistency_takes_the_tokens_of_a_group_together_and_groups_alike() -> None:
    experts = [tensor([0, 0, 1]), tensor([1, 1]), tensor([3])]
    # group 7: tokens 0 0 1 1 1, expert 1 has 3 of 5; group 8: 1 of 1; mean (.6 + 1) / 2
    assert routing.group_consistency(experts, [7, 7, 8]) == pytest.approx(0.8)
    assert routing.group_consistency([], []) is None
    with pytest.raises(ValueError, match="3 prompts for 2 groups"):
        routing.group_consistency(experts, [7, 7])


def test_largest_load_counts_tokens_and_leaves_out_those_without_expert() -> None:
    # four routed tokens, expert 2 takes three
    assert routing.largest_load([tensor([2, 2, -1]), tensor([0, 2])]) == 0.75
    assert routing.largest_load([tensor([-1])]) is None
    assert routing.largest_load([]) is None


def test_routing_matrix_rows_are_shares_of_what_an_expert_learned() -> None:
    trained, routed = tensor([0, 0, 0, 0, 2]), tensor([0, 0, 1, -1, 2])
    # expert 0 learned four inputs: two come back, one goes to 1, one to none; expert 1 learned none
    expected = [[0.5, 0.25, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert routing.routing_matrix(trained, routed, 3).tolist() == expected
    with pytest.raises(ValueError, match=r"routed must lie in \[0, 2\)"):
        routing.routing_matrix(trained.clamp_max(1), routed, 2)
    with pytest.raises(ValueError, match="trained is"):
        routing.routing_matrix(trained, routed[:2], 3)


@given(EXPERTS, EXPERTS, st.permutations(range(5)))
def test_scores_when_experts_are_relabelled_and_no_tie_decides_then_stay(
    edited: Tensor, rephrased: Tensor, order: list[int]
) -> None:
    names = tensor(order)
    assert routing.routing_purity(names[edited]) == routing.routing_purity(edited)
    assert routing.largest_load([names[edited]]) == routing.largest_load([edited])
    counts = torch.bincount(edited)
    if int((counts == counts.max()).sum()) == 1:
        before = routing.routing_consistency(edited, rephrased)
        assert routing.routing_consistency(names[edited], names[rephrased]) == before
