"""Who handles what, one token at a time.

Sources: MEMoE v1 (arXiv:2405.19086), Eq. 13; LEMoE (arXiv:2406.20030v1), Section 3.2 and Figure 2;
the serial-editing paper (ARM), Section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

Prompt = Sequence[int]  # expert of each of its tokens


def handling_the_majority(tokens: Prompt) -> int:
    """E_k: the expert that handles most; of several the first."""
    best, most = -1, 0
    for expert in sorted(set(tokens)):
        taken = 0
        for token in tokens:
            if token == expert:
                taken += 1
        if taken > most:
            best, most = expert, taken
    return best


def expected_indicator(tokens: Prompt, expert: int) -> float:
    """E_x 1{E_k = R(x)} of Eq. 13 over the tokens x."""
    hits = 0
    for token in tokens:
        if token == expert:
            hits += 1
    return hits / len(tokens)


def similar(prompts: Sequence[Prompt], groups: Sequence[int]) -> float:
    """Eq. 13 for groups of similar knowledge, averaged over the groups."""
    total = 0.0
    for group in set(groups):
        tokens = []
        for prompt, own in zip(prompts, groups, strict=True):
            if own == group:
                for token in prompt:
                    tokens.append(token)
        total += expected_indicator(tokens, handling_the_majority(tokens))
    return total / len(set(groups))


def same(edit: Prompt, rephrase: Prompt) -> float:
    """Eq. 13 for one rephrase: the ground truth is the expert of the edit."""
    return expected_indicator(rephrase, handling_the_majority(edit))


def matrix(trained: Prompt, routed: Prompt, num_experts: int) -> list[list[float]]:
    """C_ij: the proportion of the inputs of i in training that are routed to j in testing."""
    rows = []
    for i in range(num_experts):
        mine = [there for here, there in zip(trained, routed, strict=True) if here == i]
        row = []
        for j in range(num_experts):
            hits = 0
            for expert in mine:
                if expert == j:
                    hits += 1
            row.append(hits / len(mine) if mine else 0.0)
        rows.append(row)
    return rows


def last_answers(num_questions: int, num_answers: int) -> list[int]:
    """Edits that are scored: "the last T edits" of the N = T x P in the order of their making."""
    scored = []
    number = 0
    for answer in range(num_answers):
        for _ in range(num_questions):
            if answer == num_answers - 1:
                scored.append(number)
            number += 1
    return scored
