"""MEMoE v2's division, router and loss against the slow reference."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden import reference_memoe_v2 as reference
from trainables.methods.memoe_v2.dual_attention import DualAttentionRouter, instance_gates
from trainables.methods.memoe_v2.terms import (
    ConstraintSettings,
    balancing_constraint_loss,
    divergences,
    row_means,
)
from trainables.moe.frequency import (
    balanced_clusters,
    divide,
    gece,
    gradient_products,
    mean_gradient,
)
from trainables.optimise import OptimiserSettings

WIDTH, LENGTH, EXPERTS = 8, 3, 5
SETTINGS = ConstraintSettings(
    frequency_weighting=True,
    balance_term=True,
    balance_sign="printed",
    router_term=True,
    frequency_threshold=0.6,
    frequency_slope=1.0,
    balance_slope=0.5,
    focal_power=1.5,
    balance_weight=1.0,
    router_weight=1.0,
)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chances(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + 0.8 * torch.rand(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_tokens", [1, 4])
def test_gece_when_the_denominator_is_as_printed_then_equals_equation_9(num_tokens: int) -> None:
    num_edits = 3
    owner = torch.arange(num_edits).repeat_interleave(num_tokens)
    deltas, keys = numbers(len(owner), 5, seed=1), numbers(len(owner), 7, seed=2)
    meteor, alpha, p = chances(3, seed=3), chances(3, seed=4), chances(3, num_tokens, seed=5)
    factors = [(deltas, keys, owner)]
    products = gradient_products(factors, num_edits, mean_gradient(factors, num_edits))
    actual = gece(meteor, p.mean(1), alpha, products, "printed")
    gradients = [
        sum(np.outer(deltas[t].numpy(), keys[t].numpy()) for t in (owner == i).nonzero()[:, 0])
        for i in range(num_edits)
    ]
    for i in range(num_edits):
        expected = reference.gece(float(meteor[i]), p[i].tolist(), float(alpha[i]), gradients, i)
        assert float(actual[i]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("num_edits", [1, 4, 11])
def test_divide_when_sorted_by_gece_then_the_head_is_equation_11(p: float, num_edits: int) -> None:
    scores = numbers(num_edits, seed=6)
    labels = divide(scores, 3, head_share=p, balance_weight=1.0)
    found = {i for i, label in enumerate(labels) if label == 0}
    assert found == set(reference.head(scores.tolist(), p))


@pytest.mark.parametrize("clusters", [1, 2, 3])
@pytest.mark.parametrize("lam", [0.0, 0.05, 1.0])
def test_balanced_clusters_reach_the_smallest_cost_of_equation_12(
    clusters: int, lam: float
) -> None:
    for seed in range(4):
        values = np.sort(numbers(7, seed=seed).numpy() ** 3)
        sizes = balanced_clusters(values, clusters, lam)
        labels = [j for j, size in enumerate(sizes) for _ in range(size)]
        least = reference.least_balanced_cost(values.tolist(), clusters, lam)
        cost = reference.balanced_cost(values.tolist(), labels, clusters, lam)
        assert cost == pytest.approx(least, rel=1e-9, abs=1e-9)


def made_router(reading: str) -> DualAttentionRouter:
    router = DualAttentionRouter(
        EXPERTS,
        reading=reading,  # type: ignore[arg-type]
        projection_size=3,
        num_chunks=4,
        like=numbers(WIDTH),
        generator=torch.Generator().manual_seed(7),
    )
    with torch.no_grad():
        for index, parameter in enumerate(router.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=10 + index))
    return router


@pytest.mark.parametrize("reading", ["one_key", "outer", "chunks", "pair", "sequence"])
def test_router_equals_equations_13_to_15(reading: str) -> None:
    router = made_router(reading)
    w: dict[str, Any] = {name: value.numpy() for name, value in router.state_dict().items()}
    states, mask = numbers(4, LENGTH, WIDTH, seed=8), torch.ones(4, LENGTH, dtype=torch.bool)
    mask[1:3, 0] = False
    actual = router(states, mask).softmax(-1).detach().numpy()
    for row in range(4):
        tokens = states[row][mask[row]].numpy()
        edited = np.array(
            [reference.adapter(e, w["down"], w["down_bias"], w["up"], w["up_bias"]) for e in tokens]
        )
        sources = {"sequence": (tokens, edited)}
        both = np.stack([tokens[-1], edited[-1]])
        sources["pair"] = (both, both)
        before, after = sources.get(reading, (tokens[-1:], edited[-1:]))
        matrices = {
            name: [w[f"{name}.query"], w[f"{name}.key"], w[f"{name}.value"]]
            for name in ("before", "after")
        }
        A = reference.interaction(reading, edited[-1], before, matrices["before"], 4)
        A_hat = reference.interaction(reading, tokens[-1], after, matrices["after"], 4)
        expected = reference.router(w["experts"], w["mix"][0], A, w["mix"][1], A_hat)
        np.testing.assert_allclose(actual[row], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_gates_when_double_then_are_equation_10_of_equation_15(top_k: int) -> None:
    logits = numbers(6, EXPERTS, seed=9)
    actual = instance_gates(logits, top_k, "double").numpy()
    for row, scores in zip(actual, logits.tolist(), strict=True):
        np.testing.assert_allclose(row, reference.gates(reference.softmax(scores), top_k))


def losses(settings: ConstraintSettings) -> tuple[float, dict[str, Any]]:
    g, r, log_f = chances(4, seed=1), chances(4, seed=2), -chances(4, seed=3)
    kl = chances(4, seed=4)
    total = balancing_constraint_loss(settings, nll=-log_f, divergence=kl, log_chances=r.log(), g=g)
    return float(total), {"g": g.tolist(), "r": r.tolist(), "log_f": log_f.tolist(), "kl": kl}


ONE = replace(SETTINGS, frequency_weighting=False, balance_term=False, router_term=False)


@pytest.mark.parametrize(("tau", "gamma_1"), [(0.6, 1.0), (0.0, 5.0)])
def test_model_loss_equals_equations_16_and_17(tau: float, gamma_1: float) -> None:
    settings = replace(
        ONE, frequency_weighting=True, frequency_threshold=tau, frequency_slope=gamma_1
    )
    actual, inputs = losses(settings)
    expected = reference.model_loss(inputs["g"], inputs["log_f"], tau, gamma_1)
    assert actual == pytest.approx(expected / 4, rel=1e-12)  # a mean over the 4 edits


@pytest.mark.parametrize("gamma_2", [0.0, 0.5, 5.0])
@pytest.mark.parametrize(("sign", "factor"), [("printed", 1.0), ("constraint", -1.0)])
def test_balance_loss_equals_equation_18(gamma_2: float, sign: Any, factor: float) -> None:
    plain, inputs = losses(ONE)
    actual, _ = losses(replace(ONE, balance_term=True, balance_sign=sign, balance_slope=gamma_2))
    expected = factor * reference.balance_loss(inputs["g"], inputs["kl"].tolist(), gamma_2) / 4
    assert actual - plain == pytest.approx(expected, rel=1e-9)


def test_divergence_of_equation_18_is_that_of_the_edited_model_from_the_one_before() -> None:
    after, before = numbers(3, 6, seed=1), numbers(3, 6, seed=2)
    found = divergences(after, before.float().log_softmax(-1))
    pairs = zip(after.numpy(), before.numpy(), strict=True)
    expected = [reference.divergence(a, b) for a, b in pairs]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)  # float32
    # rows 0 and 2: the mean over a row's positions
    means = row_means(found, torch.tensor([0, 0, 2]), 3)
    np.testing.assert_allclose(means, [sum(expected[:2]) / 2, 0.0, expected[2]], rtol=1e-5)


@pytest.mark.parametrize("gamma_3", [0.0, 0.5, 1.5, 5.0])
def test_router_loss_equals_equation_19(gamma_3: float) -> None:
    plain, inputs = losses(ONE)
    actual, _ = losses(replace(ONE, router_term=True, focal_power=gamma_3))
    expected = reference.router_loss(inputs["r"], gamma_3) / 4
    assert actual - plain == pytest.approx(expected, rel=1e-9)


def test_total_loss_is_the_sum_of_equation_20() -> None:
    actual, inputs = losses(SETTINGS)
    parts = (
        reference.model_loss(inputs["g"], inputs["log_f"], 0.6, 1.0),
        reference.balance_loss(inputs["g"], inputs["kl"].tolist(), 0.5),
        reference.router_loss(inputs["r"], 1.5),
    )
    assert actual == pytest.approx(sum(parts) / 4, rel=1e-12)


@pytest.mark.parametrize("num_steps", [1, 25, 40])
def test_rate_is_the_schedule_of_appendix_c3(num_steps: int) -> None:
    settings = OptimiserSettings("adamw", 2e-4, num_steps, schedule="cosine", warmup_share=0.1)
    for step in range(num_steps):
        expected = reference.rate(step, num_steps, 2e-4, 0.1)
        assert settings.rate(step) == pytest.approx(expected, rel=1e-12)
