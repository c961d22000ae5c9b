"""Scores of an edited model, one token at a time, from full next-token scores.

Source: LEMoE, arXiv:2406.20030v1, Eq. 4 (reliability), 5 (generality) and 6 (locality), where an
expectation is a mean over instances and the indicator asks for the whole answer. The token form
asks for each target token, given the prompt and the target tokens before it, and is averaged over
the tokens of an answer first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Logits = Sequence[Sequence[float]]  # of each answer token, over the vocabulary
Answer = Sequence[int]


def argmax(values: Sequence[float]) -> int:
    """Index of the largest value: argmax over y of f(y | x)."""
    best = 0
    for candidate in range(1, len(values)):
        if values[candidate] > values[best]:
            best = candidate
    return best


def whole_answer(logits: Logits, answer: Answer) -> float:
    """1{argmax_y f(y | x) = y} of Eq. 4 and 5, with the answer teacher-forced."""
    for scores, token in zip(logits, answer, strict=True):
        if argmax(scores) != token:
            return 0.0
    return 1.0


def answer_tokens(logits: Logits, answer: Answer) -> float:
    """Share of answer tokens for which the indicator holds."""
    right = 0
    for scores, token in zip(logits, answer, strict=True):
        if argmax(scores) == token:
            right += 1
    return right / len(answer)


def unaltered_tokens(after: Logits, before: Logits) -> float:
    """Token form of 1{f_after(y | x) = f_before(y | x)} of Eq. 6."""
    same = 0
    for edited, pristine in zip(after, before, strict=True):
        if argmax(edited) == argmax(pristine):
            same += 1
    return same / len(after)


def unaltered(after: Logits, before: Logits) -> float:
    """Eq. 6 for a whole answer."""
    return 1.0 if unaltered_tokens(after, before) == 1.0 else 0.0


def expectation(instances: Sequence[Sequence[float]]) -> float:
    """Mean over records of the mean over the prompts of a record; records without any left out."""
    total, counted = 0.0, 0
    for prompts in instances:
        if len(prompts) == 0:
            continue
        inner = 0.0
        for score in prompts:
            inner += score
        total += inner / len(prompts)
        counted += 1
    return total / counted


def retention(reliability: Sequence[float], batches: Sequence[int]) -> float:
    """Mean over the edits of all batches but the last."""
    last = batches[0]
    for batch in batches:
        last = max(last, batch)
    return expectation([[r] for r, batch in zip(reliability, batches, strict=True) if batch < last])


def loss(scores: Sequence[float], token: int) -> float:
    """Negative logarithm of the softmax at `token`."""
    top = scores[argmax(scores)]
    total = 0.0
    for score in scores:
        total += math.exp(score - top)
    return math.log(total) - (scores[token] - top)


def perplexity(logits: Logits, answer: Answer) -> float:
    """Exponential of the mean loss over the answer tokens, the prompt left out."""
    total = 0.0
    for scores, token in zip(logits, answer, strict=True):
        total += loss(scores, token)
    return math.exp(total / len(answer))


def own_expert_rate(trained: Sequence[int], routed: Sequence[int]) -> float:
    """LEMoE, Figure 2 (right): diagonal of C, weighted by the edits of each expert."""
    total = 0.0
    for expert in set(trained):
        mine = [route for owner, route in zip(trained, routed, strict=True) if owner == expert]
        diagonal = sum(1 for route in mine if route == expert) / len(mine)
        total += diagonal * len(mine) / len(trained)
    return total
