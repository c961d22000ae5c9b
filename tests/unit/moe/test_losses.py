import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.moe.losses import balance_loss


def test_balance_loss_when_inputs_are_spread_evenly_then_is_one() -> None:
    gates = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    # f = [1/2, 1/2], P = [1/2, 1/2]: 2 (1/4 + 1/4)
    assert float(balance_loss(gates, 1)) == pytest.approx(1.0)


@pytest.mark.parametrize(("top_k", "expected"), [(1, 4.0), (2, 2.0)])
def test_balance_loss_when_top_k_experts_take_all_then_is_experts_over_top_k(
    top_k: int, expected: float
) -> None:
    gates = torch.zeros(5, 4)
    gates[:, :top_k] = 1.0 / top_k
    # f = P = 1/k for k of 4 experts: 4 k / k^2
    assert float(balance_loss(gates, top_k)) == pytest.approx(expected)


def test_balance_loss_by_hand_and_its_gradient() -> None:
    gates = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]], requires_grad=True)
    loss = balance_loss(gates, 2)
    # Both rows choose experts 0 and 1: f = [1/2, 1/2, 0]; P = [.35, .5, .15]
    # 3 (.175 + .25) = 1.275
    assert float(loss.detach()) == pytest.approx(1.275)
    loss.backward()
    # d/dP_e = 3 f_e, and each of 2 rows is half of P: 3 * 1/2 * 1/2
    assert gates.grad is not None
    torch.testing.assert_close(gates.grad, torch.tensor([[0.75, 0.75, 0.0]] * 2))


def test_balance_loss_when_followed_downhill_then_levels_the_load() -> None:
    scores = torch.tensor([[1.0, 0.0], [1.2, 0.0], [0.8, 0.0], [0.1, 0.0]], requires_grad=True)
    optimiser = torch.optim.SGD([scores], lr=1.0)
    for _ in range(20):
        optimiser.zero_grad()
        balance_loss(scores.softmax(-1), 1).backward()
        optimiser.step()
    load = torch.bincount(scores.detach().argmax(-1), minlength=2)
    assert load.max() < 4  # it was 4 of 4


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6),
    st.permutations(range(4)),
    st.integers(1, 4),
)
def test_balance_loss_when_experts_are_relabelled_then_is_unchanged(
    scores: list[list[float]], order: list[int], top_k: int
) -> None:
    # Ties are broken by position, so equal scores are parted by a hair that all rows share.
    parted = torch.tensor(scores, dtype=torch.float64).round(decimals=3)
    gates = (parted + torch.tensor([0.0, 1e-5, 2e-5, 3e-5])).softmax(-1)
    renamed = float(balance_loss(gates[:, order], top_k))
    assert renamed == pytest.approx(float(balance_loss(gates, top_k)), rel=1e-9)
    assert 0 < renamed <= 4 / top_k + 1e-9  # no expert takes more than 1 / top_k of the choices


@pytest.mark.parametrize("top_k", [0, 4])
def test_balance_loss_when_top_k_is_out_of_range_then_says_so(top_k: int) -> None:
    with pytest.raises(ValueError, match=rf"top_k is {top_k}; it must lie in \[1, 3\]"):
        balance_loss(torch.full((2, 3), 1 / 3), top_k)
