"""MEMoE v1 (arXiv:2405.19086), Eq. 9-12, 14 and 15, as slow float64 loops from the paper.

Also the two things that it takes from elsewhere: Switch Transformers' auxiliary loss, and soft
merging of experts by their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def product(matrix: Floats, vector: Floats) -> Floats:
    rows, columns = matrix.shape
    result = np.zeros(rows)
    for i in range(rows):
        for j in range(columns):
            result[i] += matrix[i, j] * vector[j]
    return result


def softmax(values: Floats) -> Floats:
    powers = [math.exp(value) for value in values]
    return np.array([power / sum(powers) for power in powers])


def top_k(values: Floats, k: int) -> Floats:
    """Zeros out all but the k largest values."""
    kept = np.zeros(len(values))
    for _ in range(k):
        best = None
        for e in range(len(values)):
            if kept[e] == 0 and (best is None or values[e] > values[best]):
                best = e
        assert best is not None
        kept[best] = values[best]
    return kept


def gates(W_g: Floats, R: Floats, noise: Floats, k: int) -> Floats:
    """Eq. 9: G = top_k(softmax(W_g R(x_i) + epsilon))."""
    return top_k(softmax(product(W_g, R) + noise), k)


def moe(G: Floats, W: Sequence[Floats], x: Floats) -> Floats:
    """Eq. 10: h_i = sum_e G_e W_e x_i."""
    h = np.zeros(W[0].shape[0])
    for gate, weight in zip(G, W, strict=True):
        if gate != 0:
            h = h + gate * product(weight, x)
    return h


def adaptor(frozen: Floats, weight: float, G: Floats, W: Sequence[Floats], x: Floats) -> Floats:
    """Eq. 11: h_i = W_0 x_i + lambda sum_e G_e W_e x_i, with W_0 x_i as `frozen`."""
    return frozen + weight * moe(G, W, x)


def mean_embedding(table: Floats, ids: Sequence[int]) -> Floats:
    total = np.zeros(table.shape[1])
    for token in ids:
        total = total + table[token]
    return total / len(ids)


def anchor_embedding(table: Floats, entities: Sequence[Sequence[int]]) -> Floats:
    """embed(x_anchor): the average of the entities' embeddings (Appendix D)."""
    embedded = [mean_embedding(table, ids) for ids in entities]
    return sum(embedded[1:], embedded[0]) / len(embedded)


def r_anchor(x: Floats, anchor: Floats) -> Floats:
    """Eq. 12: concat(x_i, embed(x_anchor))."""
    return np.array([*x, *anchor])


def r_token(x: Floats) -> Floats:
    """Eq. 14: x_i."""
    return x


def r_sentence(x: Floats, table: Floats, ids: Sequence[int]) -> Floats:
    """Eq. 15: concat(x_i, embed(X)), with embed(X) as the average over the sequence."""
    return np.array([*x, *mean_embedding(table, ids)])


def auxiliary_loss(probabilities: Floats, k: int) -> float:
    """Switch Transformers: E sum_e f_e P_e; f_e is e's share of the k choices of each token."""
    num_tokens, num_experts = probabilities.shape
    loss = 0.0
    for e in range(num_experts):
        chosen = sum(1 for row in probabilities if top_k(row, k)[e] > 0)
        f = chosen / (num_tokens * k)
        P = sum(row[e] for row in probabilities) / num_tokens
        loss += f * P
    return num_experts * loss


def merged_expert(
    G: Floats,
    gate: Floats,
    ups: Sequence[Floats],
    downs: Sequence[Floats],
    activation: Callable[[float], float],
) -> Callable[[Floats], Floats]:
    """One FFN whose weights are the gated sums of all experts' weights; the gate is shared."""
    up = sum(g * weight for g, weight in zip(G, ups, strict=True))
    down = sum(g * weight for g, weight in zip(G, downs, strict=True))

    def expert(x: Floats) -> Floats:
        opened = [activation(value) for value in product(gate, x)]
        return product(down, np.array(opened) * product(up, x))

    return expert
