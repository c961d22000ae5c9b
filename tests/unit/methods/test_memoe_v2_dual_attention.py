import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.methods.memoe_v2.dual_attention import DualAttentionRouter, instance_gates

WIDTH, EXPERTS = 8, 3
READINGS = ["chunks", "outer", "pair", "sequence", "one_key", "linear"]


def made(reading: Any, **changes: Any) -> DualAttentionRouter:
    settings: dict[str, Any] = {"projection_size": 4, "num_chunks": 4, **changes}
    like = torch.zeros(WIDTH, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return DualAttentionRouter(EXPERTS, reading=reading, like=like, generator=generator, **settings)


def states(num_prompts: int, length: int = 2, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_prompts, length, WIDTH, generator=generator, dtype=torch.float64)


def logits(router: DualAttentionRouter, of: Tensor) -> Tensor:
    found: Tensor = router(of, torch.ones(of.shape[:2], dtype=torch.bool))
    return found


@pytest.mark.parametrize("reading", READINGS)
def test_queries_and_keys_get_a_gradient_in_every_reading_but_the_degenerate_one(
    reading: str,
) -> None:
    router = made(reading)
    chances = logits(router, states(5)).log_softmax(-1)
    chances[:, 0].sum().backward()
    assert router.experts.grad is not None
    assert float(router.experts.grad.abs().max()) > 0
    if reading == "linear":
        return
    for direction in (router.before, router.after):
        for matrix in (direction.query, direction.key):
            assert matrix.grad is not None
            largest = float(matrix.grad.abs().max())
            # softmax over one score is 1 whatever the score: no gradient at all
            assert largest == 0.0 if reading == "one_key" else largest > 1e-8


@pytest.mark.parametrize("reading", READINGS)
def test_logits_are_affine_in_the_state_in_the_degenerate_and_the_linear_reading_alone(
    reading: str,
) -> None:
    router = made(reading)
    a, b, zero = states(1, seed=2), states(1, seed=3), torch.zeros(1, 2, WIDTH).double()
    together = logits(router, a + b) + logits(router, zero)
    departure = float((together - logits(router, a) - logits(router, b)).detach().abs().max())
    assert departure < 1e-12 if reading in ("one_key", "linear") else departure > 1e-6


def test_chunks_when_there_is_one_then_equal_the_printed_equation() -> None:
    one_chunk, printed = made("chunks", num_chunks=1), made("one_key")
    torch.testing.assert_close(logits(one_chunk, states(4)), logits(printed, states(4)))


@pytest.mark.parametrize("reading", READINGS)
def test_logits_when_other_tokens_change_then_only_a_sequence_sees_it(reading: str) -> None:
    router, one = made(reading), states(2)
    other = torch.cat([states(2, seed=9)[:, :1], one[:, 1:]], dim=1)
    is_same = torch.allclose(logits(router, one), logits(router, other))
    assert is_same == (reading != "sequence")


def test_sequence_when_a_token_is_masked_then_it_is_not_there() -> None:
    router, one = made("sequence"), states(2, length=3)
    mask = torch.tensor([[False, True, True]] * 2)
    torch.testing.assert_close(router(one, mask), logits(router, one[:, 1:]))


def test_outer_when_done_in_parts_then_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    router, one = made("outer"), states(5)
    whole = logits(router, one)
    monkeypatch.setattr(
        "trainables.methods.memoe_v2.dual_attention._LARGE", 2 * WIDTH**2
    )  # two prompts each
    torch.testing.assert_close(logits(router, one), whole)


# softmax of (0, ln 2, ln 5) = 1/8, 2/8, 5/8
LOGITS = torch.tensor([[0.0, math.log(2), math.log(5)]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("top_k", "labels", "expected"),
    [
        (1, None, [0, 0, 5 / 8]),
        (2, None, [0, 2 / 8, 5 / 8]),
        (3, None, [1 / 8, 2 / 8, 5 / 8]),
        (1, [0], [1 / 8, 0, 0]),  # forced onto expert 0
        (2, [0], [1 / 8, 0, 5 / 8]),  # and the best other one
        (1, [-1], [0, 0, 5 / 8]),  # -1: the router's choice
    ],
)
def test_gates_when_single_then_are_the_chances_of_the_chosen(
    top_k: int, labels: list[int] | None, expected: list[float]
) -> None:
    forced = None if labels is None else torch.tensor(labels)
    actual = instance_gates(LOGITS, top_k, "single", forced)[0]
    assert actual.tolist() == pytest.approx(expected)


def test_gates_when_constant_then_share_one() -> None:
    assert instance_gates(LOGITS, 2, "constant")[0].tolist() == [0.0, 0.5, 0.5]


def test_gates_when_double_then_stay_between_their_bounds() -> None:
    sure = torch.tensor([[100.0, 0.0, 0.0, 0.0, 0.0]])
    # softmax of (1, 0, 0, 0, 0): e / (e + 4)
    assert float(instance_gates(sure, 1, "double")[0, 0]) == pytest.approx(math.e / (math.e + 4))
