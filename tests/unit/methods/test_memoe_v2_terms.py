import math
from dataclasses import replace

import pytest
import torch

from trainables.methods.memoe_v2.terms import (
    ConstraintSettings,
    balance_coefficient,
    balancing_constraint_loss,
    divergences,
    focal_term,
    frequency_weight,
    row_means,
)

NOTHING = ConstraintSettings(
    frequency_weighting=False,
    balance_term=False,
    balance_sign="constraint",
    router_term=False,
    frequency_threshold=0.5,
    frequency_slope=1.0,
    balance_slope=0.5,
    focal_power=2.0,
    balance_weight=1.0,
    router_weight=1.0,
)


def loss(settings: ConstraintSettings) -> float:
    # at g = tau = 1/2 the weight is 1/2; at balance_slope 0 the coefficient is 1/2
    return float(
        balancing_constraint_loss(
            settings,
            nll=torch.tensor([2.0, 4.0]),
            divergence=torch.tensor([1.0, 3.0]),
            log_chances=torch.tensor([0.5, 0.25]).log(),
            g=torch.tensor([0.5, 0.5]),
        )
    )


def test_frequency_weight_at_the_threshold_is_a_half_and_rises() -> None:
    weights = frequency_weight(torch.tensor([0.0, 0.6, 1.0]), 0.6, 1.0)
    # (1 + tanh(-.6)) / 2 = 1 / (1 + e^1.2)
    assert weights.tolist() == pytest.approx(
        [1 / (1 + math.exp(1.2)), 0.5, 1 / (1 + math.exp(-0.8))]
    )


def test_balance_coefficient_falls_from_a_half() -> None:
    found = balance_coefficient(torch.tensor([0.0, 1.0]), 0.5)
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(0.5))])


@pytest.mark.parametrize(("power", "factor"), [(0.0, 1.0), (1.0, 0.75), (2.0, 0.5625)])
def test_focal_term_weighs_by_what_is_missing(power: float, factor: float) -> None:
    found = focal_term(torch.tensor([0.25]).log(), power)
    assert float(found) == pytest.approx(factor * math.log(4))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.5])
def test_focal_term_of_a_sure_router_has_finite_gradients(power: float) -> None:
    sure = torch.zeros(1, requires_grad=True)
    focal_term(sure, power).sum().backward()
    assert sure.grad is not None
    assert bool(torch.isfinite(sure.grad).all())


def test_divergences_are_those_of_the_edited_from_the_pristine_model() -> None:
    after = torch.tensor([[0.0, math.log(3)]])  # 1/4, 3/4
    before = torch.tensor([[0.5, 0.5]]).log()
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(divergences(after, before)) == pytest.approx(expected)
    assert float(divergences(after, after.log_softmax(-1))) == pytest.approx(0.0, abs=1e-7)


def test_row_means_when_a_row_has_no_position_then_is_zero() -> None:
    found = row_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    assert found.tolist() == [2.0, 0.0, 5.0]


def test_loss_without_any_part_is_the_mean_negative_log_likelihood() -> None:
    assert loss(NOTHING) == 3.0  # (2 + 4) / 2


def test_loss_by_part() -> None:
    assert loss(replace(NOTHING, frequency_weighting=True)) == pytest.approx(1.5)  # halved
    held = replace(NOTHING, balance_term=True, balance_slope=0.0, balance_weight=3.0)
    assert loss(held) == pytest.approx(3.0 + 3 * 1.0)  # mean of 1/2 and 3/2
    assert loss(replace(held, balance_sign="printed")) == pytest.approx(3.0 - 3 * 1.0)
    # (1/4 ln 2 + 9/16 ln 4) / 2, twice
    focal = math.log(2) / 4 + 9 / 16 * math.log(4)
    guided = replace(NOTHING, router_term=True, router_weight=2.0)
    assert loss(guided) == pytest.approx(3.0 + focal, rel=1e-6)


def test_loss_when_edits_have_no_label_or_nothing_is_held_then_the_terms_are_left_out() -> None:
    everything = replace(NOTHING, balance_term=True, router_term=True)
    found = balancing_constraint_loss(
        everything,
        nll=torch.tensor([2.0, 4.0]),
        divergence=None,
        log_chances=None,
        g=torch.tensor([0.5, 0.5]),
    )
    assert float(found) == 3.0
