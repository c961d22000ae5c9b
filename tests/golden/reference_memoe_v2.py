"""MEMoE v2, Eq. 9-20, as slow float64 loops from the paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def dot(a: Floats, b: Floats) -> float:
    return float(sum(a[i] * b[i] for i in range(len(a))))


def product(matrix: Floats, vector: Floats) -> Floats:
    return np.array([dot(row, vector) for row in matrix])


def softmax(scores: Sequence[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def gece(
    meteor: float, chances: Sequence[float], alpha: float, gradients: Sequence[Floats], i: int
) -> float:
    """Eq. 9: |M - mean p(t_i)| / (alpha [E(grad) . grad_ins]), gradients as whole matrices."""
    mean = np.zeros_like(gradients[0])
    for gradient in gradients:
        mean = mean + gradient / len(gradients)
    inner = 0.0
    for row in range(mean.shape[0]):
        for column in range(mean.shape[1]):
            inner += mean[row, column] * gradients[i][row, column]
    return abs(meteor - sum(chances) / len(chances)) / (alpha * inner)


def head(scores: Sequence[float], p: float) -> list[int]:
    """Eq. 11: the edits x_1 .. x_floor(pN) of ascending GECE."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    return order[: math.floor(p * len(scores))]


def balanced_cost(
    values: Sequence[float], labels: Sequence[int], clusters: int, lam: float
) -> float:
    """J of Eq. 12; ceil((1 - p) N) / (n - 1) is the number of values over that of clusters."""
    total = 0.0
    for j in range(clusters):
        own = [value for value, label in zip(values, labels, strict=True) if label == j]
        if own:
            mean = sum(own) / len(own)
            total += sum((value - mean) ** 2 for value in own)
        total += lam * abs(len(own) - len(values) / clusters)
    return total


def least_balanced_cost(values: Sequence[float], clusters: int, lam: float) -> float:
    """The smallest J over all assignments that leave no cluster empty."""
    return min(
        balanced_cost(values, labels, clusters, lam)
        for labels in itertools.product(range(clusters), repeat=len(values))
        if len(set(labels)) == clusters
    )


def adapter(e: Floats, W_down: Floats, b_1: Floats, W_up: Floats, b_2: Floats) -> Floats:
    """Eq. 13: e^ = W_up (W_down e + b_1) + b_2."""
    return product(W_up, product(W_down, e) + b_1) + b_2


def attention(queries: Floats, keys: Floats, values: Floats, width: int) -> Floats:
    """Eq. 14: Softmax(Q K^T / sqrt(width)) V, with tokens as rows."""
    found = np.zeros((len(queries), values.shape[1]))
    for i, q in enumerate(queries):
        weights = softmax([dot(q, k) / math.sqrt(width) for k in keys])
        for weight, value in zip(weights, values, strict=True):
            found[i] += weight * value
    return found


def interaction(
    reading: str, query: Floats, source: Floats, matrices: Sequence[Floats], chunks: int
) -> Floats:
    """A(x) of Eq. 14 for a query (D,) and a source of keys and values (L, D), by its reading."""
    W_q, W_k, W_v = matrices
    Q = product(W_q, query)
    K, V = (np.array([product(W, row) for row in source]) for W in (W_k, W_v))
    width = len(Q)
    if reading == "outer":  # column vectors: each feature is a token of width 1
        return attention(Q[:, None], K[0][:, None], V[0][:, None], width)[:, 0]
    if reading == "chunks":
        pieces = [part.reshape(chunks, -1) for part in (Q, K[0], V[0])]
        return attention(*pieces, width // chunks).reshape(-1)
    return attention(Q[None], K, V, width)[0]


def router(W_r: Floats, alpha: float, A: Floats, beta: float, A_hat: Floats) -> list[float]:
    """Eq. 15: Softmax(W_r (alpha A + beta A^))."""
    return softmax(list(product(W_r, alpha * A + beta * A_hat)))


def gates(scores: Sequence[float], top_k: int) -> list[float]:
    """Eq. 10: Top_k(softmax(r)); what is not among the k largest is zero."""
    shares = softmax(scores)
    kept = sorted(range(len(shares)), key=lambda i: -shares[i])[:top_k]
    return [share if i in kept else 0.0 for i, share in enumerate(shares)]


def weight(g: float, tau: float, gamma_1: float) -> float:
    """Eq. 17."""
    return 0.5 * (1 + math.tanh(gamma_1 * (g - tau)))


def model_loss(g: Sequence[float], log_f: Sequence[float], tau: float, gamma_1: float) -> float:
    """Eq. 16: sum_i -w(g_i) log f(y_i | x_i)."""
    return sum(-weight(own, tau, gamma_1) * log for own, log in zip(g, log_f, strict=True))


def divergence(after: Floats, before: Floats) -> float:
    """D_KL(f' || f) of two logit vectors, f' after the edit."""
    p, q = softmax(list(after)), softmax(list(before))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def balance_loss(g: Sequence[float], kl: Sequence[float], gamma_2: float) -> float:
    """Eq. 18 with its printed minus sign."""
    return -sum(d / (1 + math.exp(gamma_2 * own)) for own, d in zip(g, kl, strict=True))


def router_loss(r: Sequence[float], gamma_3: float) -> float:
    """Eq. 19: -sum_i (1 - r(x_i))^gamma_3 log r(x_i)."""
    return -sum((1 - own) ** gamma_3 * math.log(own) for own in r)


def rate(step: int, num_steps: int, peak: float, warmup: float) -> float:
    """Appendix C.3: linear warm-up over a share of the steps, then a cosine; steps from 0."""
    warm = math.ceil(warmup * num_steps)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / (num_steps - warm))) / 2
