"""Orders of edits on embeddings whose clusters are plain to see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainables.draws.ordering import (
    EditOrder,
    batch_sizes,
    between_batch_similarity,
    centred_directions,
    plan_batches,
    within_batch_similarity,
)
from trainables.errors import ConfigError


def corners(counts: tuple[int, ...]) -> NDArray[np.float64]:
    """`counts[i]` points near axis i of a common offset, the points of all axes interleaved."""
    rng = np.random.default_rng(0)
    labels = labels_of(counts)
    points = np.eye(len(counts))[labels] + 0.02 * rng.standard_normal((len(labels), len(counts)))
    return points + 5.0  # the offset that centring takes away


def labels_of(counts: tuple[int, ...]) -> NDArray[np.int64]:
    turns = [(turn, axis) for axis, count in enumerate(counts) for turn in range(count)]
    return np.array([axis for _, axis in sorted(turns)])


def table(counts: tuple[int, ...], plan: list[NDArray[np.int64]]) -> list[list[int]]:
    """How many of each corner every batch holds."""
    labels = labels_of(counts)
    return [np.bincount(labels[batch], minlength=len(counts)).tolist() for batch in plan]


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(EditOrder),
    num_edits=st.integers(1, 14),
    seed=st.integers(0, 2**63 - 1),
    duplicates=st.booleans(),
    data=st.data(),
)
def test_plan_batches_is_a_permutation_with_the_promised_sizes(
    order: EditOrder, num_edits: int, seed: int, duplicates: bool, data: st.DataObject
) -> None:
    points = np.random.default_rng(num_edits).standard_normal((num_edits, 3))
    if duplicates:
        points[: num_edits // 2 + 1] = points[0]
    num_batches = data.draw(st.integers(1, num_edits))
    plan = plan_batches(points, order=order, seed=seed, num_batches=num_batches)
    assert sorted(np.concatenate(plan).tolist()) == list(range(num_edits))
    assert len(plan) == num_batches
    assert all(len(batch) for batch in plan)
    if order is not EditOrder.KMEANS_UNEQUAL:
        expected = batch_sizes(num_edits, num_batches=num_batches)
        assert [len(batch) for batch in plan] == expected
    again = plan_batches(points, order=order, seed=seed, num_batches=num_batches)
    assert all(np.array_equal(one, other) for one, other in zip(plan, again, strict=True))


def test_plan_batches_given_keeps_the_sequence_and_random_follows_the_seed() -> None:
    points = corners((5, 5))
    given_order = plan_batches(points, order="given", seed=1, edit_batch_size=4)
    assert [batch.tolist() for batch in given_order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    drawn = [
        np.concatenate(plan_batches(points, order="random", seed=seed, edit_batch_size=4)).tolist()
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("order", ["kmeans_unequal", "kmeans_filled", "hierarchical"])
def test_plan_batches_separate_clusters_of_equal_size_become_the_batches(order: str) -> None:
    plan = plan_batches(corners((4, 4, 4)), order=order, seed=0, edit_batch_size=4)
    assert table((4, 4, 4), plan) == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]


def test_plan_batches_unequal_follows_the_clusters_largest_first() -> None:
    counts = (2, 7, 3)
    plan = plan_batches(corners(counts), order="kmeans_unequal", seed=0, num_batches=3)
    assert table(counts, plan) == [[0, 7, 0], [0, 0, 3], [2, 0, 0]]


@pytest.mark.parametrize("order", ["kmeans_filled", "hierarchical"])
def test_plan_batches_filled_breaks_no_cluster_that_fills_a_batch(order: str) -> None:
    counts = (6, 4, 2)
    plan = plan_batches(corners(counts), order=order, seed=0, edit_batch_size=4)
    # 6 left: a batch of 4 from corner 0; then 4 of corner 1; then what is left, 2 and 2
    assert sorted(table(counts, plan)) == [[0, 4, 0], [2, 0, 2], [4, 0, 0]]


def test_plan_batches_filled_takes_the_next_edits_from_the_nearest_cluster() -> None:
    # 5 edits at 0 degrees, 4 at 120, 2 at 240, 1 at 30, in this sequence
    degrees = np.repeat([0.0, 120.0, 240.0, 30.0], [5, 4, 2, 1]) + np.linspace(0, 0.1, 12)
    points = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)
    plan = plan_batches(points, order="kmeans_filled", seed=0, edit_batch_size=3)
    clusters = [np.repeat([0, 120, 240, 30], [5, 4, 2, 1])[batch].tolist() for batch in plan]
    # 3 of 0; 3 of 120; the last 2 of 0 with their neighbour at 30; the pair at 240 with the rest
    assert sorted(clusters) == [[0, 0, 0], [0, 0, 30], [120, 120, 120], [120, 240, 240]]


def test_plan_batches_filled_takes_the_edits_nearest_to_the_centre_first() -> None:
    # cluster of edits 0-4 whose outermost is edit 0; cluster of 5-7
    degrees = np.array([25.0, 0, 1, -1, -2, 180, 181, 182])
    points = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)
    plan = plan_batches(points, order="kmeans_filled", seed=0, edit_batch_size=4)
    assert [batch.tolist() for batch in plan] == [[0, 5, 6, 7], [1, 2, 3, 4]]


def test_plan_batches_balanced_moves_only_what_must_move() -> None:
    counts = (6, 4, 2)
    plan = plan_batches(corners(counts), order="kmeans_balanced", seed=0, edit_batch_size=4)
    # sizes 4, 4, 4: corner 0 has two too many, and they join the two of corner 2
    assert sorted(table(counts, plan)) == [[0, 4, 0], [2, 0, 2], [4, 0, 0]]


@pytest.mark.parametrize("num_batches", [2, 3, 4])
def test_plan_batches_reversed_spreads_every_cluster_evenly(num_batches: int) -> None:
    counts = (5, 4, 3)
    points = corners(counts)
    plan = plan_batches(points, order="reversed_kmeans", seed=0, num_batches=num_batches)
    if num_batches == 3:  # then the clusters are the corners: shares differ by one at most
        shares = np.array(table(counts, plan))
        assert (shares.max(axis=0) - shares.min(axis=0)).max() <= 1
    grouped = plan_batches(points, order="kmeans_filled", seed=0, num_batches=num_batches)
    centred = centred_directions(points)
    spread, close = (within_batch_similarity(centred, p).mean() for p in (plan, grouped))
    assert spread < close


def test_plan_batches_groups_by_direction_not_by_length() -> None:
    # two directions from the mean, lengths 1 and 9: plain k-means would split off the long ones
    points = np.array([[1.0, 0], [9, 0], [0, 1], [0, 9], [-1, -1], [-9, -9]])
    plan = plan_batches(points, order="kmeans_unequal", seed=0, num_batches=3)
    assert sorted(batch.tolist() for batch in plan) == [[0, 1], [2, 3], [4, 5]]


def test_plan_batches_equal_embeddings_still_give_every_batch() -> None:
    plan = plan_batches(np.ones((6, 2)), order="kmeans_unequal", seed=0, num_batches=3)
    assert sorted(len(batch) for batch in plan) == [1, 1, 4]


def test_batch_sizes_are_as_equal_as_can_be() -> None:
    assert batch_sizes(10, edit_batch_size=4) == [4, 4, 2]
    assert batch_sizes(8, edit_batch_size=4) == [4, 4]
    assert batch_sizes(10, num_batches=4) == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"edit_batch_size": 5}, r"edit_batch_size is 5; it must lie in \[1, .*num_edits=4\]"),
        ({"num_batches": 0}, r"num_batches is 0; it must lie in \[1, .*num_edits=4\]"),
        ({}, "exactly one of them must be set"),
        ({"edit_batch_size": 2, "num_batches": 2}, "exactly one of them must be set"),
    ],
)
def test_batch_sizes_impossible_setting_is_refused(settings_: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        batch_sizes(4, **settings_)


def test_plan_batches_unknown_order_and_bad_embeddings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.order is 'kmean'; known: given, random"):
        plan_batches(np.ones((4, 2)), order="kmean", seed=0, num_batches=2)
    for bad in (np.ones(4), np.ones((0, 2)), np.array([[1.0, np.nan]])):
        with pytest.raises(ValueError, match="embeddings must be"):
            plan_batches(bad, order="given", seed=0, num_batches=1)


def test_centred_directions_have_length_one_and_the_mean_has_none() -> None:
    # mean (1, 1): differences (3, 4), (0, 0), (-3, -4)
    directions = centred_directions(np.array([[4.0, 5.0], [1.0, 1.0], [-2.0, -3.0]]))
    np.testing.assert_allclose(directions, [[0.6, 0.8], [0, 0], [-0.6, -0.8]], atol=1e-15)


def test_similarities_of_three_axes() -> None:
    points = np.array([[2.0, 0], [0, 3.0], [-1.0, 0], [5.0, 0]])
    batches = [np.array([0, 1, 2]), np.array([3])]
    # WBS: cosines 0, -1, 0, so -1/3; one edit alone has no pair
    within = within_batch_similarity(points, batches)
    assert within[0] == pytest.approx(-1 / 3)
    assert np.isnan(within[1])
    # BBS: mean of the first batch (1/3, 1), against (5, 0): cosine (1/3) / sqrt(1/9 + 1)
    assert between_batch_similarity(points, batches) == pytest.approx(1 / np.sqrt(10))
    assert np.isnan(between_batch_similarity(points, batches[:1]))


def test_similarity_of_a_zero_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="no direction"):
        within_batch_similarity(np.array([[0.0, 0], [1, 0]]), [np.array([0, 1])])
