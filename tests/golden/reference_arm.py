"""Equations 2 to 9 and 13 of ARM and the margin loss of WISE as slow float64 loops.

Written from "Serial Lifelong Editing via Mixture of Knowledge Experts", Sections 3.2 and 3.3 and
Appendix D.3. A prompt is the list of the vectors a_t that enter the output projection at its
tokens; Delta is taken in its mean over them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def delta(expert: Array, original: Array, prompt: list[Array]) -> float:
    """Eq. 4: |W_i(x) - W_org(x)|_2, mean over tokens."""
    total = 0.0
    for token in prompt:
        square = 0.0
        for row in range(len(original)):
            difference = 0.0
            for column in range(len(token)):
                difference += (expert[row, column] - original[row, column]) * token[column]
            square += difference * difference
        total += math.sqrt(square)
    return total / len(prompt)


def selection_score(act_edited: float, act_unrelated: float) -> float:
    """Eq. 2, with 0 / 0 = 0."""
    if act_edited == 0.0:
        return 0.0
    return (act_edited - act_unrelated) / act_edited


def ground_truth(scores: list[float], epsilon: float) -> int | None:
    """Eq. 3: the arg max, or None where Uni(0, K) decides."""
    best = max(range(len(scores)), key=lambda index: scores[index])
    return best if scores[best] > epsilon else None


def margin_loss(edited: float, unrelated: float, alpha: float, beta: float, gamma: float) -> float:
    """Eq. 5 for one edit and one unrelated prompt."""
    return (
        max(0.0, beta - edited)
        + max(0.0, unrelated - alpha)
        + max(0.0, gamma - (edited - unrelated))
    )


def memory_loss(owner: float, trained: float, gamma: float) -> float:
    """Eq. 6 for one remembered prompt."""
    return max(0.0, gamma - (owner - trained))


def router_loss(weight: Array, bias: Array, features: Array, expert: int) -> float:
    """Eq. 7: cross entropy of softmax(W f + b) for one edit."""
    logits = []
    for row in range(len(weight)):
        logits.append(sum(weight[row, c] * features[c] for c in range(len(features))) + bias[row])
    total = sum(math.exp(value) for value in logits)
    return math.log(total) - logits[expert]


def final_expert(deltas: list[float], router: list[float], beta: float) -> int:
    """Eq. 8 and 9: -1 for W_org."""
    if max(deltas) < beta:
        return -1
    return max(range(len(router)), key=lambda index: router[index])


def emr(taus: list[Array]) -> list[Array]:
    """Appendix D.3: elect, mask, rescale; what stands for each tau (Eq. 13)."""
    unified = np.zeros_like(taus[0])
    for place in np.ndindex(*unified.shape):
        total = sum(tau[place] for tau in taus)
        sign = float(np.sign(total))
        same = [abs(tau[place]) for tau in taus if tau[place] * sign > 0]
        unified[place] = sign * max(same) if same else 0.0
    restored = []
    for tau in taus:
        masked = np.zeros_like(unified)
        for place in np.ndindex(*unified.shape):
            if tau[place] * unified[place] > 0:
                masked[place] = unified[place]
        size = sum(abs(value) for value in masked.flat)
        scale = sum(abs(value) for value in tau.flat) / size if size else 0.0
        restored.append(scale * masked)
    return restored


def ties(taus: list[Array], density: float, weights: list[float]) -> Array:
    """Trim by magnitude, elect the sign of the weighted sum, average the entries that agree."""
    trimmed = []
    for tau in taus:
        order = sorted(np.ndindex(*tau.shape), key=lambda place: -abs(tau[place]))
        kept = set(order[: max(1, round(density * tau.size))])
        trimmed.append(
            np.array(
                [tau[place] if place in kept else 0.0 for place in np.ndindex(*tau.shape)]
            ).reshape(tau.shape)
        )
    merged = np.zeros_like(taus[0])
    for place in np.ndindex(*merged.shape):
        total = sum(w * tau[place] for w, tau in zip(weights, trimmed, strict=True))
        agreeing = [
            (w, tau[place])
            for w, tau in zip(weights, trimmed, strict=True)
            if tau[place] * total > 0
        ]
        if agreeing:
            merged[place] = sum(w * v for w, v in agreeing) / sum(w for w, _ in agreeing)
    return merged


def slerp(first: Array, second: Array, share: float) -> Array:
    """Spherical interpolation of two vectors."""
    cosine = sum(a * b for a, b in zip(first, second, strict=True)) / math.sqrt(
        sum(a * a for a in first) * sum(b * b for b in second)
    )
    angle = math.acos(cosine)
    left = math.sin((1 - share) * angle) / math.sin(angle)
    right = math.sin(share * angle) / math.sin(angle)
    return np.array([left * a + right * b for a, b in zip(first, second, strict=True)])
