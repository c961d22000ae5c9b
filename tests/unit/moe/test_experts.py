from inspect import signature

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.interfaces import Backbone
from trainables.moe import experts
from trainables.moe.experts import (
    FfnBank,
    FrozenFfn,
    LinearBank,
    LoraBank,
    bank_of,
    gated_sum,
    linear_sum,
)


def lora(num_experts: int, rank: int, alpha: float | None = None, width: int = 4) -> LoraBank:
    bank = LoraBank(
        num_experts,
        width,
        rank,
        lora_alpha=alpha,
        generator=torch.Generator().manual_seed(3),
        like=torch.zeros(1),
    )
    with torch.no_grad():
        bank.outer.copy_(torch.randn(bank.outer.shape, generator=torch.Generator().manual_seed(4)))
    return bank


def test_lora_bank_output_by_hand() -> None:
    bank = lora(1, rank=1, width=2)
    with torch.no_grad():
        bank.inner.copy_(torch.tensor([[[1.0, 2.0]]]))
        bank.outer.copy_(torch.tensor([[[3.0, 4.0]]]))
    x, gates = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[0.5]])
    # A x = 1 + 2 = 3; B 3 = [9, 12]; half of it: [4.5, 6]
    assert torch.equal(bank(x, gates), torch.tensor([[[4.5, 6.0]]]))


def test_lora_bank_when_alpha_is_given_then_scales_by_alpha_over_rank() -> None:
    x, gates = torch.randn(3, 2, 4), torch.ones(3, 1)
    plain, scaled = lora(1, 2), lora(1, 2, alpha=6.0)
    torch.testing.assert_close(scaled(x, gates), 3.0 * plain(x, gates))  # 6 / 2


def test_lora_bank_when_rank_grows_by_idle_directions_then_output_is_unchanged() -> None:
    small, large = lora(2, 1), lora(2, 3)
    with torch.no_grad():
        large.inner[:, :1], large.outer[:, :1] = small.inner, small.outer
        large.outer[:, 1:] = 0.0
    x, gates = torch.randn(3, 2, 4), torch.rand(3, 2)
    torch.testing.assert_close(large(x, gates), small(x, gates))


def test_lora_bank_when_built_then_a_lies_in_the_kaiming_bounds_and_b_is_zero() -> None:
    bank = LoraBank(
        2,
        16,
        8,
        lora_alpha=None,
        generator=torch.Generator().manual_seed(0),
        like=torch.zeros(1, dtype=torch.bfloat16),
    )
    assert bank.inner.dtype == torch.float32
    assert 0.2 < float(bank.inner.detach().abs().max()) <= 0.25  # 1 / sqrt(16)
    assert not bank.outer.any()


def test_ffn_bank_gated_output_by_hand() -> None:
    gate = nn.Linear(2, 1, bias=False)
    gate.weight = nn.Parameter(torch.tensor([[1.0, -1.0]]), requires_grad=False)
    bank = FfnBank(1, FrozenFfn(torch.tensor([[1.0, 1.0]]), torch.relu, gate))
    x, gates = torch.tensor([[[3.0, 1.0]]]), torch.ones(1, 1)
    assert not bank(x, gates).any()  # down starts at zero
    with torch.no_grad():
        bank.outer.copy_(torch.tensor([[[0.5, -1.0]]]))
    # relu(3 - 1) = 2; up: 3 + 1 = 4; product 8; down: [4, -8]
    assert torch.equal(bank(x, gates), torch.tensor([[[4.0, -8.0]]]))


def test_ffn_bank_without_a_gate_applies_bias_then_activation() -> None:
    frozen = FrozenFfn(torch.tensor([[1.0, 1.0]]), torch.relu, up_bias=torch.tensor([-3.0]))
    bank = FfnBank(1, frozen)
    with torch.no_grad():
        bank.outer.copy_(torch.tensor([[[1.0, 2.0]]]))
    x = torch.tensor([[[3.0, 1.0], [1.0, 1.0]]])
    # relu(4 - 3) = 1 -> [1, 2]; relu(2 - 3) = 0 -> [0, 0]
    assert torch.equal(bank(x, torch.ones(1, 1)), torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]))


def test_ffn_bank_when_down_is_the_backbones_then_repeats_the_frozen_ffn(
    backbone: Backbone,
) -> None:
    ffn = backbone.model.get_submodule(backbone.ffn_path(1))
    bank = FfnBank(1, FrozenFfn.of_layer(backbone, 1))
    down = backbone.model.get_submodule(backbone.down_path(1))
    weight = down.weight if backbone.family.is_transposed else down.weight.T
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        bank.outer.copy_(weight)
    x = torch.randn(2, 3, backbone.hidden_size)
    takes_residual = "residual" in signature(ffn.forward).parameters
    residual = (torch.zeros_like(x),) if takes_residual else ()
    expected = ffn(x, *residual)
    bias = getattr(down, "bias", None)
    expected = expected if bias is None else expected - bias
    torch.testing.assert_close(bank(x, torch.ones(2, 1)), expected, atol=1e-5, rtol=1e-5)


GATES = st.lists(
    st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(GATES, st.booleans())
def test_gated_sum_paths_agree_with_a_plain_sum(chosen: list[list[float]], large: bool) -> None:
    gates = torch.tensor(chosen)
    bank = lora(3, 2)
    x = torch.randn(len(gates), 2, 4, generator=torch.Generator().manual_seed(5))
    expected = sum(
        gates[:, e, None, None] * (x @ bank.inner[e].T @ bank.outer[e]) for e in range(3)
    )
    torch.testing.assert_close(bank(x, gates), expected, atol=1e-6, rtol=1e-5)
    is_open = gates != 0
    rows = is_open.any(1)
    if rows.any():
        path = experts._one_by_one if large else experts._grouped
        part = path(x[rows], gates[rows], is_open[rows], bank.inner, bank.outer, experts._unchanged)
        torch.testing.assert_close(part, expected[rows], atol=1e-6, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_gated_sum_when_experts_are_relabelled_then_is_unchanged(order: list[int]) -> None:
    bank, x = lora(4, 2), torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(5))
    gates = torch.eye(4)[[0, 1, 2, 3, 3]] * 0.7
    renamed = gated_sum(
        x, gates[:, order], bank.inner[order], bank.outer[order], experts._unchanged
    )
    torch.testing.assert_close(renamed, bank(x, gates), atol=1e-6, rtol=1e-5)


def test_gated_sum_when_gates_are_per_token_then_equals_one_prompt_per_token() -> None:
    bank, x, gates = lora(3, 2), torch.randn(2, 3, 4), torch.rand(2, 3, 3)
    alone = bank(x.reshape(6, 1, 4), gates.reshape(6, 3)).view(2, 3, 4)
    torch.testing.assert_close(bank(x, gates), alone)


def test_gated_sum_when_a_gate_is_closed_then_its_expert_gets_no_gradient() -> None:
    bank, x = lora(3, 2), torch.randn(4, 2, 4)
    gates = torch.tensor([[1.0, 0, 0]] * 3 + [[0, 0, 1.0]])
    bank(x, gates).sum().backward()
    assert bank.inner.grad is not None
    assert bank.inner.grad[[0, 2]].flatten(1).any(1).all()
    assert not bank.inner.grad[1].any()


@pytest.mark.parametrize("rows", [1, 6])
def test_gated_sum_gradients_reach_learned_gates(rows: int) -> None:
    bank = lora(4, 2)
    x = torch.randn(rows, 2, 4)
    gates = torch.eye(4)[torch.arange(rows) % 4].requires_grad_(True)
    bank(x, gates).sum().backward()
    # d/dg of sum(g f(x)) = sum(f(x)), for the open gates
    for row in range(rows):
        e = row % 4
        expected = (x[row] @ bank.inner[e].T @ bank.outer[e]).sum()
        assert gates.grad is not None
        torch.testing.assert_close(gates.grad[row, e], expected, atol=1e-5, rtol=1e-5)


def test_linear_bank_dense_output_by_hand() -> None:
    bank = LinearBank(2, FrozenFfn(torch.ones(1, 2), torch.relu), reads_hidden=False)
    assert not bank.outer.any()
    with torch.no_grad():
        bank.outer.copy_(torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]]))
    x, gates = torch.tensor([[[3.0, 5.0]]]), torch.tensor([[0.5, 1.0]])
    # Expert 0 doubles the second entry: [3, 10], halved by its gate; expert 1 swaps: [5, 3].
    assert torch.equal(bank(x, gates), torch.tensor([[[6.5, 8.0]]]))


def test_linear_bank_beside_the_down_projection_repeats_it_for_every_family(
    backbone: Backbone,
) -> None:
    ffn = backbone.model.get_submodule(backbone.ffn_path(1))
    down = backbone.model.get_submodule(backbone.down_path(1))
    bank = LinearBank(1, FrozenFfn.of_layer(backbone, 1), reads_hidden=True)
    weight = down.weight if backbone.family.is_transposed else down.weight.T
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        bank.outer.copy_(weight)
    x = torch.randn(2, 3, backbone.hidden_size)
    takes_residual = "residual" in signature(ffn.forward).parameters
    residual = (torch.zeros_like(x),) if takes_residual else ()
    expected = ffn(x, *residual)
    bias = getattr(down, "bias", None)
    expected = expected if bias is None else expected - bias
    torch.testing.assert_close(bank(x, torch.ones(2, 1)), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(GATES)
def test_linear_sum_agrees_with_a_plain_sum(chosen: list[list[float]]) -> None:
    generator = torch.Generator().manual_seed(6)
    gates, outer = torch.tensor(chosen), torch.randn(3, 5, 4, generator=generator)
    z = torch.randn(len(gates), 2, 5, generator=generator)
    expected = sum(gates[:, e, None, None] * (z @ outer[e]) for e in range(3))
    torch.testing.assert_close(linear_sum(z, gates, outer), expected, atol=1e-6, rtol=1e-5)
    per_token = gates[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(linear_sum(z, per_token, outer), expected, atol=1e-6, rtol=1e-5)


def test_linear_sum_when_a_gate_is_closed_then_its_expert_gets_no_gradient() -> None:
    outer = torch.ones(2, 3, 3, requires_grad=True)
    linear_sum(torch.ones(1, 1, 3), torch.tensor([[0.0, 1.0]]), outer).sum().backward()
    assert outer.grad is not None
    assert outer.grad[1].any()
    assert not outer.grad[0].any()


def ffn_banks(num_experts: int) -> tuple[FfnBank, FfnBank]:
    """A bank that merges parameters and one that mixes outputs, of equal weights."""
    generator = torch.Generator().manual_seed(7)
    frozen = FrozenFfn(torch.randn(6, 4, generator=generator), torch.relu)
    merging, mixing = (FfnBank(num_experts, frozen, merges_parameters=m) for m in (True, False))
    with torch.no_grad():
        for bank in (merging, mixing):
            fresh = torch.Generator().manual_seed(8)
            bank.inner.copy_(torch.randn(bank.inner.shape, generator=fresh))
            bank.outer.copy_(torch.randn(bank.outer.shape, generator=fresh))
    return merging, mixing


def test_merged_expert_when_one_gate_is_one_then_is_that_expert() -> None:
    merging, mixing = ffn_banks(3)
    x, gates = torch.randn(4, 2, 4), torch.eye(3)[[0, 1, 2, 1]]
    torch.testing.assert_close(merging(x, gates), mixing(x, gates), atol=1e-5, rtol=1e-5)


def test_merged_expert_when_gates_are_split_then_differs_from_mixed_outputs_by_hand() -> None:
    frozen = FrozenFfn(torch.tensor([[1.0]]), torch.relu)
    merging, mixing = (FfnBank(2, frozen, merges_parameters=m) for m in (True, False))
    with torch.no_grad():
        for bank in (merging, mixing):
            bank.inner.copy_(torch.tensor([[[2.0]], [[-4.0]]]))
            bank.outer.copy_(torch.tensor([[[10.0]], [[30.0]]]))
    x, gates = torch.tensor([[[1.0]]]), torch.tensor([[0.75, 0.25]])
    # Mixed: .75 * 10 relu(2) + .25 * 30 relu(-4) = 15
    assert torch.equal(mixing(x, gates), torch.tensor([[[15.0]]]))
    # Merged: up .75 * 2 - .25 * 4 = .5, down .75 * 10 + .25 * 30 = 15: 15 relu(.5)
    assert torch.equal(merging(x, gates), torch.tensor([[[7.5]]]))


@pytest.mark.parametrize(("shape", "inputs"), [("dense", 4), ("down", 6)])
def test_bank_of_a_linear_shape_has_one_matrix_per_expert(shape: str, inputs: int) -> None:
    frozen = FrozenFfn(torch.ones(6, 4, dtype=torch.bfloat16), torch.relu)
    bank = bank_of(shape, 3, frozen)  # type: ignore[arg-type]
    parameters = dict(bank.named_parameters())
    assert {name: tuple(p.shape) for name, p in parameters.items()} == {"outer": (3, inputs, 4)}
    assert parameters["outer"].dtype == torch.float32
