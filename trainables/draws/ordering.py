"""Arranges edits: which are edited together, and in which order the batches come.

Source: LEMoE, arXiv:2406.20030v1, sections 3.3 and 4.3. Section 3.3 finds that high
between-batch and low within-batch similarity helps; section 4.3 groups by k-means, which aims at
the reverse. The groupings here follow 4.3, and `reversed_kmeans` follows 3.3.

Every order needs all edits before the first one, so none but `given` and `random` is lifelong in
the strict sense.

scikit-learn and scipy take a second to import, which most processes need not spend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.errors import ConfigError

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

MAX_BALANCING_ROUNDS = 20
NUM_KMEANS_STARTS = 10


class EditOrder(StrEnum):
    """How edits are arranged in batches."""

    GIVEN = "given"
    RANDOM = "random"
    KMEANS_FILLED = "kmeans_filled"
    KMEANS_UNEQUAL = "kmeans_unequal"
    KMEANS_BALANCED = "kmeans_balanced"
    HIERARCHICAL = "hierarchical"
    REVERSED_KMEANS = "reversed_kmeans"


def plan_batches(
    embeddings: NDArray[np.floating],
    *,
    order: EditOrder | str,
    seed: int,
    edit_batch_size: int | None = None,
    num_batches: int | None = None,
) -> list[Indices]:
    """Batches in the order in which they are edited; together a permutation of range(N).

    Embeddings are centred on their mean and scaled to length 1 before clustering, so that k-means
    groups by angle: mean token embeddings share a large common part. The batches of the clusters
    come largest first, then by their lowest index; within a batch indices ascend. The exceptions
    are `given` and `random`, whose sequence is the order itself.

    - `given`, `random`: split into batches as they come, or after a seeded permutation.
    - `kmeans_filled`: equal batches, each filled from the cluster with most edits left, those
      nearest to its centre first, then from the cluster whose centre is nearest to that one.
    - `kmeans_unequal`: one batch per cluster, whatever its size.
    - `kmeans_balanced`: equal batches; clusters of fixed sizes by alternating assignment of least
      squared distance and update of the centres.
    - `hierarchical`: as `kmeans_filled`, on Ward's agglomerative clusters; the seed has no effect.
    - `reversed_kmeans`: every cluster is dealt out over all batches.

    Args:
        embeddings: (N, D), one row per edit, N >= 1.
        order: Name of the order.
        seed: Of the permutation or of the k-means starts.
        edit_batch_size: Edits per batch; the last batch holds what is left.
        num_batches: Number of batches instead, sizes differing by one at most. The number of
            clusters is the number of batches either way.

    Raises:
        ConfigError: If `order` is unknown or the batches do not fit the number of edits.
        ValueError: If the embeddings are not a finite (N, D) array.
    """
    order = _known_order(order)
    points = _checked(embeddings)
    sizes = batch_sizes(len(points), edit_batch_size=edit_batch_size, num_batches=num_batches)
    if order is EditOrder.GIVEN:
        return _split_in_order(np.arange(len(points)), sizes)
    if order is EditOrder.RANDOM:
        return _split_in_order(np.random.default_rng(seed).permutation(len(points)), sizes)
    points = centred_directions(points)
    arrange = _ARRANGE[order]
    cluster = _ward_labels if order is EditOrder.HIERARCHICAL else _kmeans_labels
    labels = _without_empty(points, cluster(points, len(sizes), seed), len(sizes))
    plan = [np.sort(batch) for batch in arrange(points, labels, sizes)]
    return sorted(plan, key=lambda batch: (-len(batch), batch[0]))


def batch_sizes(
    num_edits: int, *, edit_batch_size: int | None = None, num_batches: int | None = None
) -> list[int]:
    """Sizes of equal batches, the larger ones first; they add up to `num_edits`.

    Raises:
        ConfigError: If not exactly one of the two is given, or it lies outside [1, num_edits].
    """
    if (edit_batch_size is None) == (num_batches is None):
        raise ConfigError(
            f"protocol.edit_batch_size is {edit_batch_size} and protocol.num_batches is "
            f"{num_batches}; exactly one of them must be set"
        )
    if edit_batch_size is not None:
        _check_range("protocol.edit_batch_size", edit_batch_size, num_edits)
        num_full, rest = divmod(num_edits, edit_batch_size)
        return [edit_batch_size] * num_full + ([rest] if rest else [])
    assert num_batches is not None
    _check_range("protocol.num_batches", num_batches, num_edits)
    size, num_larger = divmod(num_edits, num_batches)
    return [size + (index < num_larger) for index in range(num_batches)]


def within_batch_similarity(embeddings: NDArray[np.floating], batches: Sequence[Indices]) -> Floats:
    """WBS of every batch, (s,): mean cosine similarity over its pairs; nan for a single edit.

    Source: LEMoE, arXiv:2406.20030v1, Eq. 7; e_i is the mean embedding of the tokens of
    prompt and target, from the model's embedding layer.

    Args:
        embeddings: e_i as they are, neither centred nor scaled, (N, D).
        batches: Indices into the rows, one array per batch.

    Raises:
        ValueError: If an embedding is zero, so that it has no direction.
    """
    units = _units(_checked(embeddings))
    return np.array([_mean_pair(units[batch]) for batch in batches])


def between_batch_similarity(embeddings: NDArray[np.floating], batches: Sequence[Indices]) -> float:
    """BBS: mean cosine similarity over all pairs of batch means; nan for a single batch.

    Source: LEMoE, arXiv:2406.20030v1, Eq. 8, where a batch stands for the mean of its
    e_i (see `within_batch_similarity`).

    Raises:
        ValueError: If the mean of a batch is zero, so that it has no direction.
    """
    points = _checked(embeddings)
    return _mean_pair(_units(np.stack([points[batch].mean(axis=0) for batch in batches])))


def centred_directions(embeddings: NDArray[np.floating]) -> Floats:
    """Rows minus their mean, scaled to length 1, (N, D); a row equal to the mean becomes zero."""
    points = np.asarray(embeddings, dtype=np.float64)
    centred = points - points.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    # Relative bound: what rounding leaves of a row equal to the mean is not a direction.
    floor = 1e-12 * max(float(np.abs(points).max(initial=0.0)), np.finfo(np.float64).tiny)
    return np.where(lengths > floor, centred / np.maximum(lengths, floor), 0.0)


def _fill_equally(points: Floats, labels: Indices, sizes: Sequence[int]) -> list[Indices]:
    """Equal batches, each from as few clusters as can be."""
    centres = _centres(points, labels)
    distances = np.linalg.norm(points - centres[labels], axis=1)
    waiting = [
        list(members[np.argsort(distances[members], kind="stable")]) for members in _members(labels)
    ]
    gaps = _squared_distances(centres, centres)
    plan = []
    for size in sizes:
        first = max(range(len(waiting)), key=lambda cluster: len(waiting[cluster]))
        batch: list[int] = []
        nearest = sorted(range(len(waiting)), key=lambda c: (c != first, gaps[first, c]))
        for cluster in nearest:
            room = size - len(batch)
            batch += waiting[cluster][:room]
            del waiting[cluster][:room]
        plan.append(np.array(batch, dtype=np.int64))
    return plan


def _one_per_cluster(points: Floats, labels: Indices, sizes: Sequence[int]) -> list[Indices]:
    return _members(labels)


def _balance(points: Floats, labels: Indices, sizes: Sequence[int]) -> list[Indices]:
    """Clusters of exactly the given sizes, the largest k-means cluster taking the largest."""
    from scipy.optimize import linear_sum_assignment

    members = sorted(_members(labels), key=lambda batch: (-len(batch), batch[0]))
    owners = np.repeat(np.arange(len(sizes)), sizes)  # the cluster of every place
    best = np.inf
    for _ in range(MAX_BALANCING_ROUNDS):
        centres = np.stack([points[batch].mean(axis=0) for batch in members])
        costs = _squared_distances(points, centres)
        rows, places = linear_sum_assignment(costs[:, owners])
        total = float(costs[rows, owners[places]].sum())
        if total >= best - 1e-12:
            break
        best = total
        members = [rows[owners[places] == cluster] for cluster in range(len(sizes))]
    return members


def _deal(points: Floats, labels: Indices, sizes: Sequence[int]) -> list[Indices]:
    """Batches over which every cluster is spread, one edit to each batch in turn."""
    plan: list[list[int]] = [[] for _ in sizes]
    turn = 0
    for index in np.concatenate(_members(labels)):
        while len(plan[turn % len(sizes)]) == sizes[turn % len(sizes)]:
            turn += 1
        plan[turn % len(sizes)].append(int(index))
        turn += 1
    return [np.array(batch, dtype=np.int64) for batch in plan]


_ARRANGE: Mapping[EditOrder, Callable[[Floats, Indices, Sequence[int]], list[Indices]]] = {
    EditOrder.KMEANS_FILLED: _fill_equally,
    EditOrder.HIERARCHICAL: _fill_equally,
    EditOrder.KMEANS_UNEQUAL: _one_per_cluster,
    EditOrder.KMEANS_BALANCED: _balance,
    EditOrder.REVERSED_KMEANS: _deal,
}


def _kmeans_labels(points: Floats, num_clusters: int, seed: int) -> Indices:
    from sklearn.cluster import KMeans

    num_distinct = len(np.unique(points, axis=0))
    start = int(np.random.default_rng(seed).integers(2**32))  # scikit-learn takes 32 bits only
    kmeans = KMeans(min(num_clusters, num_distinct), n_init=NUM_KMEANS_STARTS, random_state=start)
    return np.asarray(kmeans.fit_predict(points), dtype=np.int64)


def _ward_labels(points: Floats, num_clusters: int, seed: int) -> Indices:
    if num_clusters == len(points):
        return np.arange(len(points))
    from sklearn.cluster import AgglomerativeClustering

    clusters = AgglomerativeClustering(num_clusters, linkage="ward")
    return np.asarray(clusters.fit_predict(points), dtype=np.int64)


def _without_empty(points: Floats, labels: Indices, num_clusters: int) -> Indices:
    """Labels in which every cluster has a member, numbered by their lowest index.

    Equal embeddings give fewer clusters than asked for; the largest then gives up its outermost
    member, so that the number of batches, hence of experts, is what was asked for.
    """
    labels = labels.copy()
    for missing in set(range(num_clusters)) - set(labels.tolist()):
        largest = np.bincount(labels, minlength=num_clusters).argmax()
        members = np.flatnonzero(labels == largest)
        distances = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        labels[members[distances.argmax()]] = missing
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _members(labels: Indices) -> list[Indices]:
    return [np.flatnonzero(labels == cluster) for cluster in range(int(labels.max()) + 1)]


def _centres(points: Floats, labels: Indices) -> Floats:
    return np.stack([points[members].mean(axis=0) for members in _members(labels)])


def _squared_distances(points: Floats, centres: Floats) -> Floats:
    """(N, K), without the (N, K, D) array of differences, which fills gigabytes at D = 4096."""
    lengths = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    squares: Floats = np.maximum(lengths - 2 * points @ centres.T, 0.0)
    return squares


def _split_in_order(order: Indices, sizes: Sequence[int]) -> list[Indices]:
    return np.split(order, np.cumsum(sizes)[:-1])


def _mean_pair(units: Floats) -> float:
    if len(units) < 2:
        return float("nan")
    rows, columns = np.triu_indices(len(units), k=1)
    return float((units @ units.T)[rows, columns].mean())


def _units(points: Floats) -> Floats:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("an embedding of length 0 has no direction to compare")
    units: Floats = points / lengths
    return units


def _checked(embeddings: NDArray[np.floating]) -> Floats:
    points = np.asarray(embeddings, dtype=np.float64)
    if points.ndim != 2 or 0 in points.shape or not np.isfinite(points).all():
        raise ValueError(f"embeddings must be finite and (N, D), not {points.shape}")
    return points


def _known_order(order: EditOrder | str) -> EditOrder:
    allowed = [str(known) for known in EditOrder]
    if order not in allowed:
        raise ConfigError(f"protocol.order is {order!r}; known: {', '.join(allowed)}")
    return EditOrder(order)


def _check_range(key: str, value: int, num_edits: int) -> None:
    if not 1 <= value <= num_edits:
        raise ConfigError(f"{key} is {value}; it must lie in [1, protocol.num_edits={num_edits}]")
