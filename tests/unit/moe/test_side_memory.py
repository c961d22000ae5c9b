"""Side memories: activations, masks, and what is added where."""

from __future__ import annotations

import math

import pytest
import torch

from trainables.methods.arm.memory import EditMemory
from trainables.methods.arm.router import ProjectionRouter, expert_route
from trainables.moe.side_memory import (
    Margins,
    Measure,
    SideMemories,
    added,
    margin_loss,
    random_masks,
)
from trainables.moe.side_plan import BatchPlan, select_experts

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_activation_then_the_mean_over_prompt_tokens_in_units() -> None:
    memories = SideMemories(Measure("linear", 2.0, torch.relu))
    memories.deltas = [torch.eye(2), torch.zeros(2, 2)]
    inputs = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    # (5 + 1) / 2 tokens / unit 2; the third token is no prompt token
    found = memories.activations(inputs, torch.zeros(1, 3, 2), mask)
    assert found.tolist() == [[1.5, 0.0]]


def test_activation_when_behind_the_activation_function_then_it_sees_both_outputs() -> None:
    inputs, outputs = torch.tensor([[[3.0, -4.0]]]), torch.tensor([[[1.0, 1.0]]])
    shift, mask = inputs, torch.tensor([[True]])
    # relu(1 + 3) - relu(1) = 3 and relu(1 - 4) - relu(1) = -1
    difference = Measure("silu_difference", 1.0, torch.relu).activations(shift, outputs, mask)
    assert float(difference) == pytest.approx(10**0.5)
    # relu of (4, -3)
    assert float(Measure("silu_output", 1.0, torch.relu).activations(shift, outputs, mask)) == 4.0


def test_added_then_each_row_takes_its_own_memory_and_the_others_exact_zeros() -> None:
    inputs = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]])
    deltas = [torch.eye(2), 10 * torch.eye(2)]
    found = added(inputs, deltas, torch.tensor([1, -1, 0]))
    assert found.tolist() == [[[10.0, 20.0]], [[0.0, 0.0]], [[5.0, 6.0]]]
    assert torch.equal(added(inputs, deltas, torch.tensor([0, 0, 0])), inputs)


def test_random_masks_then_so_many_entries_are_trainable() -> None:
    masks = random_masks(2, (200, 100), 0.3, generator())
    # 20,000 draws: standard deviation sqrt(.3 * .7 / 20000) = .0032
    assert masks.float().mean((1, 2)).tolist() == pytest.approx([0.3, 0.3], abs=0.015)
    # independent: both with chance .09
    assert float((masks[0] & masks[1]).float().mean()) == pytest.approx(0.09, abs=0.01)


def test_random_masks_when_disjoint_then_no_entry_belongs_to_two() -> None:
    masks = random_masks(3, (200, 100), 0.3, generator(), is_disjoint=True)
    assert int(masks.sum(0).max()) == 1
    assert masks.float().mean((1, 2)).tolist() == pytest.approx([0.3] * 3, abs=0.015)
    with pytest.raises(ValueError, match="do not fit"):
        random_masks(4, (2, 2), 0.3, generator(), is_disjoint=True)


def test_margin_loss_without_unrelated_rows_then_only_beta_is_left() -> None:
    none = torch.zeros(0, dtype=torch.long)
    loss = margin_loss(torch.tensor([1.0, 5.0]), torch.zeros(0), (none, none), Margins(1, 4, 2))
    assert float(loss) == 1.5  # (3 + 0) / 2


def test_margin_loss_at_a_delta_of_zero_then_it_has_no_gradient() -> None:
    # Why the edit's likelihood must be part of the loss: L_mar alone never leaves the start.
    delta = torch.zeros(2, 2, requires_grad=True)
    inputs, mask = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[True]])
    measure = Measure("linear", 1.0, torch.relu)
    edited = measure.activations(inputs @ delta.T, torch.zeros(1, 1, 2), mask)
    one = torch.tensor([0])
    loss = margin_loss(edited, edited * 0, (one, one), Margins(1, 4, 2))
    loss.backward()
    assert float(loss.detach()) == 6.0  # beta 4 and gamma 2
    assert delta.grad is not None
    assert torch.equal(delta.grad, torch.zeros(2, 2))


def test_memory_when_full_then_a_drawn_prompt_is_used_up_and_the_oldest_gives_way() -> None:
    memory = EditMemory(2)
    for prompt, owner in (("a", 0), ("b", 1), ("a", 2)):
        memory.add(prompt, owner)
    assert memory.to_json() == [["b", 1], ["a", 2]]  # "a" went to expert 2 since
    assert memory.recall(1, {"a"}, generator()) is None  # "a" is being edited, "b" is 1's own
    assert memory.recall(0, {"a"}, generator()) == ("b", 1)
    assert memory.to_json() == [["a", 2]]  # it was full, so "b" is used up
    assert memory.recall(0, set(), generator()) == ("a", 2)
    assert len(memory) == 1  # not full: kept
    memory.add("c", 0)
    memory.add("d", 0)
    assert memory.to_json() == [["c", 0], ["d", 0]]


def test_select_experts_then_each_rule_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])

    def owners(rule: str, plan: BatchPlan, first: int = 0) -> list[int]:
        return select_experts(
            scores,
            rule,
            0.35,
            plan=plan,
            first_edit=first,
            generator=generator(),  # type: ignore[arg-type]
        )

    plan = BatchPlan([[], []], [["x"], ["x"]])
    assert owners("arm", plan)[0] == 1
    assert plan.counts == {"new_to_all_experts": 1}  # .3 is not above .35
    assert owners("cyclic", plan, first=4) == [1, 2]
    assert owners("fixed", plan, first=4) == [0, 0]
    alone = BatchPlan([[], []], [[], []])
    owners("arm", alone)
    assert alone.counts == {"no_selection_score": 2}


def test_route_then_each_rule_by_hand() -> None:
    activations = torch.tensor([[1.0, 3.0], [1.0, 3.0], [0.1, 0.2]])
    # softmax: .88 and .12; .62 and .38
    router = torch.tensor([[2.0, 0.0], [0.5, 0.0], [9.0, 0.0]])
    assert expert_route(activations, router, "projection", 0.5).tolist() == [0, 0, -1]
    assert expert_route(activations, router, "activation", 0.5).tolist() == [1, 1, -1]
    # shares of activation .25 and .75: sums 1.13 and .87; .87 and 1.13
    assert expert_route(activations, router, "both", 0.5).tolist() == [0, 1, -1]


def test_router_when_loaded_then_its_next_step_is_the_same() -> None:
    features, owners = torch.randn(4, 3, generator=generator()), torch.tensor([0, 1, 1, 0])
    one, other = (ProjectionRouter(3, 2, 0.1, CPU) for _ in range(2))
    for _ in range(3):
        one.step(features, owners)
    other.load(one.state())
    for router in (one, other):
        router.step(features, owners)
    assert torch.equal(one.scores(features), other.scores(features))


def test_router_by_sgd_then_one_step_is_the_rate_times_the_gradient() -> None:
    router = ProjectionRouter(2, 2, 0.5, CPU, optimiser="sgd")
    features = torch.tensor([[1.0, 2.0]])
    loss = router.step(features, torch.tensor([1]))
    assert float(loss) == pytest.approx(math.log(2))  # it starts at zero
    # softmax less one-hot: (.5, -.5), times the features and the rate; then the bias
    weight = -0.5 * torch.tensor([[0.5, 1.0], [-0.5, -1.0]])
    bias = -0.5 * torch.tensor([0.5, -0.5])
    torch.testing.assert_close(router.scores(features), features @ weight.T + bias)
    again = ProjectionRouter(2, 2, 0.5, CPU, optimiser="sgd")
    again.load(router.state())
    assert torch.equal(again.scores(features), router.scores(features))
