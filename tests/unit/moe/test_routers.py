import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.moe.routers import (
    FrozenAnchors,
    HiddenRouter,
    LearnedKeys,
    softmax_of_top_k,
    top_k_of_softmax,
    with_anchor,
)

GENERATOR_SEED = 7


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(GENERATOR_SEED)


def test_top_k_of_softmax_keeps_the_share_and_closes_the_rest() -> None:
    scores = torch.tensor([[0.0, math.log(3.0)]])
    # softmax([0, ln 3]) = [1/4, 3/4]
    torch.testing.assert_close(top_k_of_softmax(scores, 1), torch.tensor([[0.0, 0.75]]))
    torch.testing.assert_close(top_k_of_softmax(scores, 9), torch.tensor([[0.25, 0.75]]))


def test_softmax_of_top_k_sums_to_one_over_the_kept() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), -50.0]])
    torch.testing.assert_close(softmax_of_top_k(scores, 1), torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(softmax_of_top_k(scores, 2), torch.tensor([[0.25, 0.75, 0.0]]))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 6))
def test_gates_when_experts_are_relabelled_then_are_relabelled_too(
    order: list[int], top_k: int
) -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.7, 1.1]])
    for rule in (top_k_of_softmax, softmax_of_top_k):
        torch.testing.assert_close(rule(scores[:, order], top_k), rule(scores, top_k)[:, order])


def anchors(top_k: int, temperature: float = 1.0) -> FrozenAnchors:
    router = FrozenAnchors(torch.tensor([1.0, 1.0]), top_k, temperature)
    # Less the centre: (1, 0) and (0, 2), scaled to (1, 0) and (0, 1).
    router.add(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), drawn())
    return router


def test_frozen_anchors_scores_by_hand() -> None:
    # (4, 5) less the centre is (3, 4), of length 5: cosines .6 and .8, over a temperature of .5.
    scores = anchors(1, temperature=0.5).scores(torch.tensor([[4.0, 5.0]]))
    torch.testing.assert_close(scores, torch.tensor([[1.2, 1.6]]))


def test_frozen_anchors_gates_as_printed_are_those_of_the_softmax_over_all() -> None:
    router = FrozenAnchors(torch.tensor([0.0, 0.0]), 1, 1.0, renormalises=False)
    router.add(torch.eye(2), drawn())
    feature = torch.tensor([[0.6, 0.8]])  # its cosines
    first, second = (math.exp(cosine) / (math.exp(0.6) + math.exp(0.8)) for cosine in (0.6, 0.8))
    torch.testing.assert_close(router.gates(feature), torch.tensor([[0.0, second]]))
    # In training the expert that learns has the gate which it will have, whoever is larger.
    router.keys = router.keys.flip(0)
    torch.testing.assert_close(router.gates(feature, first=1), torch.tensor([[0.0, first]]))


def test_frozen_anchors_gates_by_hand() -> None:
    query = torch.tensor([[4.0, 5.0]])
    torch.testing.assert_close(anchors(1).gates(query), torch.tensor([[0.0, 1.0]]))
    share = 1 / (1 + math.exp(0.2))  # softmax([.6, .8]) = [1, e^.2] / (1 + e^.2)
    expected = torch.tensor([[share, 1 - share]])
    torch.testing.assert_close(anchors(2).gates(query), expected)


def test_frozen_anchors_when_a_batch_trains_then_older_experts_are_closed() -> None:
    router = anchors(1)
    router.add(torch.tensor([[-5.0, -5.0]]), drawn())
    query = torch.tensor([[4.0, 5.0]])  # nearest to expert 1, farthest from expert 2
    assert torch.equal(router.gates(query, first=2), torch.tensor([[0.0, 0.0, 1.0]]))
    assert torch.equal(router.gates(query), torch.tensor([[0.0, 1.0, 0.0]]))


def test_frozen_anchors_when_experts_are_added_then_older_keys_stay() -> None:
    router = anchors(1)
    before = router.keys.clone()
    router.add(torch.tensor([[9.0, 9.0]]), drawn())
    assert torch.equal(router.keys[:2], before)
    assert router.trainable() == {}


def test_frozen_anchors_of_equal_keys_the_newest_alone_is_in_use() -> None:
    def added(*groups: list[list[float]]) -> FrozenAnchors:
        router = FrozenAnchors(torch.zeros(2), 2, 1.0)
        for each in groups:
            router.add(torch.tensor(each), drawn())
        return router

    router = added([[3.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [[1.0, 0.1], [2.0, 0.0]])
    query = torch.tensor([[1.0, 0.0]])
    near, far = 1 / math.sqrt(1.01), -math.inf  # (1, .1) is near (1, 0), and not the same
    torch.testing.assert_close(router.scores(query), torch.tensor([[far, 0.0, far, near, 1.0]]))
    share = 1 / (1 + math.exp(near - 1))
    gates = torch.tensor([[0.0, 0.0, 0.0, 1 - share, share]])
    torch.testing.assert_close(router.gates(query), gates)
    # Two groups of one batch may be equal, too: the later one learns for both.
    assert added([[1.0, 0.0], [1.0, 0.0]]).gates(query).tolist() == [[0.0, 1.0]]
    again = added()
    again.load(router.state())
    torch.testing.assert_close(again.gates(query), gates)


def test_learned_keys_when_a_batch_begins_then_its_key_is_the_mean_query() -> None:
    router = LearnedKeys(torch.zeros(1, 4), 2, 1, drawn())
    groups = torch.randn(2, 4)
    router.add(groups, drawn())
    torch.testing.assert_close(router.keys, router.query(groups))


def test_learned_keys_when_a_second_batch_trains_then_only_its_key_and_the_projection_move() -> (
    None
):
    router = LearnedKeys(torch.zeros(1, 4), 2, 2, drawn())
    router.add(torch.randn(1, 4), drawn())
    router.freeze()
    assert router.trainable() == {}
    router.add(torch.randn(1, 4), drawn())
    first = router.keys[0].detach().clone()
    parameters = router.trainable()
    assert set(parameters) == {"keys", "projection_down", "projection_up"}
    optimiser = torch.optim.SGD(parameters.values(), lr=1.0)
    router.gates(torch.randn(3, 4))[:, 0].sum().backward()
    optimiser.step()
    assert torch.equal(router.keys[0], first)
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in parameters.values()
    )


def test_hidden_router_when_a_batch_is_added_then_older_rows_are_kept_and_train_on() -> None:
    router = HiddenRouter(torch.zeros(1, 2), 1)
    router.add(torch.zeros(2, 2), drawn())
    before = router.weight.detach().clone()
    router.freeze()
    assert router.trainable() == {}
    router.add(torch.zeros(1, 2), drawn())
    assert torch.equal(router.weight[:2], before)
    assert router.trainable()["router"].shape == (3, 2)


def test_hidden_router_scores_by_hand() -> None:
    router = HiddenRouter(torch.zeros(1, 1), 1, anchor_size=1)
    router.add(torch.zeros(2, 1), drawn())
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1.0, 10.0], [2.0, 0.0]]))
    features = with_anchor(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[0.5]]))
    # [x ; anchor] = [1, .5] and [3, .5]: scores 1 + 5 and 2; 3 + 5 and 6.
    assert torch.equal(router.scores(features), torch.tensor([[[6.0, 2.0], [8.0, 6.0]]]))


@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("kind", ["anchors", "learned", "hidden"])
def test_routers_when_loaded_then_route_and_train_as_the_saved_one(
    kind: str, is_inside: bool
) -> None:
    def build() -> FrozenAnchors | LearnedKeys | HiddenRouter:
        if kind == "anchors":
            return FrozenAnchors(torch.zeros(3), 1, 1.0)
        if kind == "learned":
            return LearnedKeys(torch.zeros(1, 3), 2, 1, torch.Generator().manual_seed(1))
        return HiddenRouter(torch.zeros(1, 3), 1)

    saved, loaded = build(), build()
    saved.add(torch.randn(2, 3), drawn())
    saved.freeze()
    saved.add(torch.randn(1, 3), drawn())
    if not is_inside:
        saved.freeze()
    loaded.load(saved.state())
    features = torch.randn(4, 3)
    assert torch.equal(loaded.gates(features), saved.gates(features))
    assert loaded.trainable().keys() == saved.trainable().keys()


def test_hidden_router_when_renormalising_then_kept_gates_sum_to_one() -> None:
    router = HiddenRouter(torch.zeros(1, 1), 2, renormalises=True)
    router.add(torch.zeros(3, 1), drawn())
    scores = torch.tensor([[0.0, math.log(3.0), -50.0]])
    torch.testing.assert_close(router.gates_of(scores), torch.tensor([[0.25, 0.75, 0.0]]))


def test_hidden_router_when_thawed_then_trains_the_same_rows_on() -> None:
    router = HiddenRouter(torch.zeros(1, 2), 1)
    router.add(torch.zeros(2, 2), drawn())
    before = router.weight
    router.freeze()
    router.thaw()
    assert router.trainable()["router"] is before
