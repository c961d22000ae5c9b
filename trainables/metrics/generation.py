"""Greedy generation through an edited model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.interfaces import DecodeState, PromptBatch
from trainables.prompts import Row, collate, pad_id

Logits = Callable[[PromptBatch, DecodeState | None], tuple[Tensor, DecodeState]]
GENERATED_TOKENS = 32  # at least so many are generated: where an answer ends is seen then
GENERATED_BEHIND = 8  # and so many more than the longest target has, for another spelling of it


def greedy(
    logits: Logits,
    prompts: Sequence[Row],
    tokenizer: Any,
    device: torch.device | str = "cpu",
    max_tokens: int = GENERATED_TOKENS,
    is_done: Callable[[Sequence[int]], bool] = lambda ids: False,
) -> list[list[int]]:
    """Greedy continuations, each cut before the end token; the route is taken on the prompt.

    One whose tokens so far are `is_done` does not go on, either.
    """
    end = tokenizer.eos_token_id
    batch = collate(prompts, pad_id=pad_id(tokenizer), scores_last=True, device=device)
    grown: list[list[int]] = [[] for _ in prompts]
    is_open = [True] * len(prompts)
    state = DecodeState()
    for _ in range(max_tokens):
        scores, state = logits(batch, state)
        tokens = scores.argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            is_open[row] = is_open[row] and token != end
            if is_open[row]:
                grown[row].append(token)
                is_open[row] = not is_done(grown[row])
        if not any(is_open):
            break
        ones = torch.ones_like(tokens)[:, None]
        batch = PromptBatch(tokens[:, None], ones, ones[:, 0], ones.bool())
    return grown
