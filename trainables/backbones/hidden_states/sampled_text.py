"""Text that a pristine backbone samples itself: contexts of a prompt, and passages for statistics.

The passages stand in for ordinary text where a checkpoint brings none. They follow the backbone's
own distribution, which is that of its training text as far as it learned it; data-free
quantisation trains on such passages for the same reason (Liu et al., "LLM-QAT", arXiv:2305.17888).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.backbones.forward.split import Split
from trainables.interfaces import DecodeState, PromptBatch
from trainables.prompts import collate, pad_id, tokenise

_OPENINGS = ("The", "Therefore", "Because", "I", "You")
_TOP = 5  # likeliest tokens that a context is sampled from, as published code does
_PASSAGE_TOKENS = 128
_PASSAGES_AT_A_TIME = 32  # more are faster, and their keys and values need more memory


def sampled_contexts(
    split: Split, count: int, length: int, seed: int, openings: Sequence[str] = _OPENINGS
) -> list[str]:
    """`count` sentences of `length` sampled tokens (top 5), begun by the `openings` in turn."""
    words = [openings[index % len(openings)] for index in range(count)]
    generator = torch.Generator().manual_seed(seed)
    return [f"{text}." for text in _continued(split, words, length, generator, _TOP)]


def sampled_passages(split: Split, num_tokens: int, seed: int) -> list[str]:
    """Passages of 128 sampled tokens, or of half the backbone's positions if those are fewer.

    There are as many as it takes for `num_tokens`. They are drawn from the whole distribution, at
    temperature 1; an end token begins a new text.
    """
    generator = torch.Generator().manual_seed(seed)
    positions = split.backbone.max_positions
    length = _PASSAGE_TOKENS if positions is None else min(_PASSAGE_TOKENS, positions // 2)
    left, passages = -(-num_tokens // length), list[str]()
    while left > 0:
        count = min(left, split.backbone.micro_batch.at_most(_PASSAGES_AT_A_TIME))
        words = [_OPENINGS[(len(passages) + index) % len(_OPENINGS)] for index in range(count)]
        passages += _continued(split, words, length, generator, None)
        left -= count
    return passages


@torch.no_grad()
def _continued(
    split: Split, openings: Sequence[str], length: int, generator: torch.Generator, top: int | None
) -> list[str]:
    """Each opening with `length` tokens sampled behind it, of the `top` likeliest or of all."""
    tokenizer, device = split.backbone.tokenizer, split.backbone.device
    rows = [tokenise(tokenizer, word) for word in openings]
    ids = [list(row.ids) for row in rows]
    prompts = collate(rows, pad_id=pad_id(tokenizer), scores_last=True, device=device)
    state = DecodeState()
    for _ in range(length):
        logits, state = split.logits(prompts, state)
        chosen = _drawn(logits.float().cpu(), generator, top).to(device)
        for row, token in zip(ids, chosen[:, 0].tolist(), strict=True):
            row.append(token)
        ones = torch.ones_like(chosen)
        prompts = PromptBatch(chosen, ones, ones[:, 0], ones.bool())
    texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


def _drawn(logits: Tensor, generator: torch.Generator, top: int | None) -> Tensor:
    """One token of each row (M, V), among the `top` likeliest or all, (M, 1)."""
    if top is None:
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)
    best = logits.topk(top)
    drawn = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
    return best.indices.gather(1, drawn)
