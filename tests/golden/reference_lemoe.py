"""LEMoE (arXiv:2406.20030v1), Eq. 9-13, and Appendix C.4, as slow float64 loops from the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Expert = Callable[[Floats], Floats]


def silu(value: float) -> float:
    return value / (1.0 + math.exp(-value))


def product(matrix: Floats, vector: Floats) -> Floats:
    rows, columns = matrix.shape
    result = np.zeros(rows)
    for i in range(rows):
        for j in range(columns):
            result[i] += matrix[i, j] * vector[j]
    return result


def ffn_expert(gate: Floats, up: Floats, down: Floats) -> Expert:
    """The FFN of LLaMA, down (SiLU(gate x) * up x); weights are (out, in)."""

    def expert(x: Floats) -> Floats:
        opened = [silu(value) for value in product(gate, x)]
        return product(down, np.array(opened) * product(up, x))

    return expert


def lora_expert(A: Floats, B: Floats, scale: float) -> Expert:
    """A low-rank module, x -> scale * B (A x)."""
    return lambda x: scale * product(B, product(A, x))


def adaptor(
    frozen: Floats, x: Floats, gates: Sequence[float], experts: Sequence[Expert], weight: float
) -> Floats:
    """Eq. 9 and 12 for one token: h = W_0 x + lambda sum_i g(i) f_i(x), with W_0 x as `frozen`."""
    total = frozen.copy()
    for gate, expert in zip(gates, experts, strict=True):
        total = total + weight * gate * expert(x)
    return total


def query(e: Floats, W_down: Floats, W_up: Floats) -> Floats:
    """Eq. 10: v = W_up SiLU(W_down e)."""
    return product(W_up, np.array([silu(value) for value in product(W_down, e)]))


def gates(v: Floats, keys: Floats, top_k: int) -> Floats:
    """Eq. 11: TopK(exp(k_j v) / sum_i exp(k_i v)); what is not among the top k is zero."""
    powers = [math.exp(sum(k[d] * v[d] for d in range(len(v)))) for k in keys]
    shares = [power / sum(powers) for power in powers]
    order = sorted(range(len(shares)), key=lambda expert: -shares[expert])
    kept = set(order[:top_k])
    return np.array([share if e in kept else 0.0 for e, share in enumerate(shares)])


def token_gates(x: Floats, W: Floats, top_k: int) -> Floats:
    """Eq. 9 with r(x) = W x, the single layer of conventional routing."""
    return gates(x, W, top_k)


def task_loss(logits: Sequence[Floats], targets: Sequence[Sequence[int]]) -> float:
    """Eq. 13: -sum over (x, y) of log P(y | x), with log P(y | x) the sum over the tokens of y.

    `logits` holds one (tokens of y, V) array for each pair.
    """
    loss = 0.0
    for scores, tokens in zip(logits, targets, strict=True):
        for row, token in zip(scores, tokens, strict=True):
            loss -= row[token] - math.log(sum(math.exp(value) for value in row))
    return loss
