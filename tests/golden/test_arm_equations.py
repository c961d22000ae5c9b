"""ARM's equations, WISE's margin loss and the mergers against the slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.golden import reference_arm as reference
from trainables.methods.arm.router import ProjectionRouter, expert_route
from trainables.moe.merging import dare_ties, emr, linear, sign, slerp, ties
from trainables.moe.side_memory import (
    Margins,
    Measure,
    SideMemories,
    margin_loss,
    memory_loss,
    selected_expert,
    selection_scores,
)
from trainables.states import snapshot

WIDTH, FFN_WIDTH = 4, 6
MARGINS = Margins(far=5.0, edit=20.0, gap=10.0)  # Table 8
ACTIVATIONS = st.floats(0.0, 40.0)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("unit", [1.0, 2.5])
@pytest.mark.parametrize("lengths", [(3, 1), (2, 4)])
def test_activation_then_eq_4_in_its_mean_over_prompt_tokens(
    unit: float, lengths: tuple[int, ...]
) -> None:
    original = numbers(WIDTH, FFN_WIDTH, seed=1)
    memories = SideMemories(Measure("linear", unit, torch.nn.functional.silu))
    deltas = [numbers(WIDTH, FFN_WIDTH, seed=seed) for seed in (2, 3)]
    memories.deltas = [delta.float() for delta in deltas]
    inputs = numbers(len(lengths), max(lengths) + 2, FFN_WIDTH, seed=4)
    mask = torch.arange(inputs.shape[1]) < torch.tensor(lengths)[:, None]
    found = memories.activations(inputs.float(), (inputs @ original.T).float(), mask)
    for row, length in enumerate(lengths):
        prompt = [token.numpy() for token in inputs[row, :length]]
        for index, delta in enumerate(deltas):
            expert = (original + delta).numpy()
            expected = reference.delta(expert, original.numpy(), prompt) / unit
            assert float(found[row, index]) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ACTIVATIONS, ACTIVATIONS), min_size=1, max_size=5), st.floats(0, 1))
def test_selection_then_eq_2_and_3(acts: list[tuple[float, float]], epsilon: float) -> None:
    edited, unrelated = torch.tensor(acts, dtype=torch.float64).T
    edited = torch.where(edited < 1e-6, 0.0, edited)
    scores = selection_scores(edited, unrelated)
    expected = [
        reference.selection_score(float(e), float(u))
        for e, u in zip(edited, unrelated, strict=True)
    ]
    assert scores.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    expert, is_drawn = selected_expert(scores, epsilon, generator)
    truth = reference.ground_truth(scores.tolist(), epsilon)
    assert is_drawn == (truth is None)
    assert expert in range(len(acts)) if truth is None else expert == truth


def test_selection_when_no_expert_knows_the_edit_then_all_are_drawn_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [selected_expert(torch.zeros(3), 0.35, generator) for _ in range(600)]
    assert all(is_drawn for _, is_drawn in draws)
    counts = torch.bincount(torch.tensor([expert for expert, _ in draws]))
    # 600 draws of 1/3: mean 200, standard deviation sqrt(600 * 2/9) = 11.5; five of them
    assert len(counts) == 3
    assert (counts - 200).abs().max() < 58


@settings(max_examples=60, deadline=None)
@given(ACTIVATIONS, ACTIVATIONS)
def test_margin_loss_of_one_pair_then_eq_5(edited: float, unrelated: float) -> None:
    pair = (torch.tensor([0]), torch.tensor([0]))
    wanted = torch.tensor([edited], dtype=torch.float64)
    far = torch.tensor([unrelated], dtype=torch.float64)
    found = float(margin_loss(wanted, far, pair, MARGINS))
    expected = reference.margin_loss(edited, unrelated, 5.0, 20.0, 10.0)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_margin_loss_of_several_rows_then_each_term_is_a_mean() -> None:
    edited, unrelated = [3.0, 25.0, 12.0], [1.0, 9.0]
    pairs = [(0, 0), (1, 0), (2, 1)]
    index = torch.tensor(pairs).T
    found = margin_loss(
        torch.tensor(edited), torch.tensor(unrelated), (index[0], index[1]), MARGINS
    )
    near = [max(0.0, 20 - value) for value in edited]
    far = [max(0.0, value - 5) for value in unrelated]
    gap = [max(0.0, 10 - (edited[i] - unrelated[j])) for i, j in pairs]
    # near (17 + 0 + 8) / 3, far (0 + 4) / 2, gap (8 + 0 + 7) / 3
    assert float(found) == pytest.approx(np.mean(near) + np.mean(far) + np.mean(gap))
    positive = margin_loss(
        torch.tensor(edited), torch.tensor(unrelated), (index[0], index[1]), MARGINS, "positive"
    )
    assert float(positive) == pytest.approx(25 / 2 + 4 + 15 / 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ACTIVATIONS, ACTIVATIONS), min_size=1, max_size=4))
def test_memory_loss_then_the_mean_of_eq_6(acts: list[tuple[float, float]]) -> None:
    owner, trained = torch.tensor(acts, dtype=torch.float64).T
    expected = np.mean([reference.memory_loss(j, i, 10.0) for j, i in acts])
    assert float(memory_loss(owner, trained, 10.0)) == pytest.approx(expected, abs=1e-9)


def test_router_step_then_the_loss_is_eq_7_and_falls() -> None:
    router = ProjectionRouter(FFN_WIDTH, 3, 0.05, torch.device("cpu"))
    features, owners = numbers(4, FFN_WIDTH).float(), torch.tensor([2, 0, 1, 1])
    losses = []
    for _ in range(20):
        state = snapshot(router.state())
        weight, bias = state.tensors["weight"].double(), state.tensors["bias"].double()
        expected = [
            reference.router_loss(weight.numpy(), bias.numpy(), row.double().numpy(), int(owner))
            for row, owner in zip(features, owners, strict=True)
        ]
        losses.append(float(router.step(features, owners)))
        assert losses[-1] == pytest.approx(np.mean(expected), rel=1e-5)
    assert losses[0] == pytest.approx(np.log(3))  # it starts at zero: all experts alike
    assert losses[-1] < 0.5 * losses[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(-3, 3)), min_size=2, max_size=4),
    st.floats(0, 2),
)
def test_route_of_the_router_then_eq_8_and_9(acts: list[tuple[float, float]], beta: float) -> None:
    deltas, router = [pair[0] for pair in acts], [round(pair[1], 2) for pair in acts]
    if len(set(router)) < len(router):
        return  # a tie has no arg max
    found = expert_route(
        torch.tensor([deltas], dtype=torch.float64),
        torch.tensor([router], dtype=torch.float64),
        "projection",
        beta,
    )
    assert found.tolist() == [reference.final_expert(deltas, router, beta)]


@pytest.mark.parametrize("num_deltas", [1, 2, 3])
@pytest.mark.parametrize("share_of_zeros", [0.0, 0.6])
def test_emr_then_appendix_d_3(num_deltas: int, share_of_zeros: float) -> None:
    deltas = [numbers(WIDTH, FFN_WIDTH, seed=seed) for seed in range(num_deltas)]
    masks = [numbers(WIDTH, FFN_WIDTH, seed=9 + seed).abs() for seed in range(num_deltas)]
    deltas = [
        torch.where(mask.argsort().argsort() < share_of_zeros * FFN_WIDTH, 0.0, delta)
        for delta, mask in zip(deltas, masks, strict=True)
    ]
    merge = emr(deltas)
    for index, expected in enumerate(reference.emr([delta.numpy() for delta in deltas])):
        np.testing.assert_allclose(merge.restored(index).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("density", [0.25, 0.53, 1.0])
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.6, 0.2, 0.2]])
def test_ties_then_trim_elect_and_average(density: float, weights: list[float]) -> None:
    deltas = [numbers(WIDTH, FFN_WIDTH, seed=seed) for seed in range(len(weights))]
    expected = reference.ties([delta.numpy() for delta in deltas], density, weights)
    np.testing.assert_allclose(ties(deltas, density, weights).numpy(), expected, atol=1e-12)
    if density == 1.0:
        np.testing.assert_allclose(sign(deltas, weights).numpy(), expected, atol=1e-12)
        generator = torch.Generator().manual_seed(0)
        kept_all = dare_ties(deltas, 1.0, generator, weights)
        np.testing.assert_allclose(kept_all.numpy(), expected, atol=1e-12)


def test_dare_ties_then_ties_of_what_was_kept_and_rescaled() -> None:
    deltas = [numbers(WIDTH, FFN_WIDTH, seed=seed) for seed in range(2)]
    generator = torch.Generator().manual_seed(5)
    found = dare_ties(deltas, 0.5, generator)
    generator.manual_seed(5)
    kept = [
        torch.where(torch.rand(delta.shape, generator=generator) < 0.5, delta / 0.5, 0.0).numpy()
        for delta in deltas
    ]
    expected = reference.ties(kept, 1.0, [0.5, 0.5])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_slerp_of_two_then_on_the_arc(share: float) -> None:
    first, second = numbers(8, seed=1), numbers(8, seed=2)
    found = slerp([first, second], [1 - share, share])
    expected = reference.slerp(first.numpy(), second.numpy(), share)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_linear_then_the_weighted_mean() -> None:
    found = linear([torch.tensor([1.0, -2.0]), torch.tensor([3.0, 6.0])], [3.0, 1.0])
    assert found.tolist() == [1.5, 0.0]  # (3 * 1 + 3) / 4, (3 * -2 + 6) / 4
