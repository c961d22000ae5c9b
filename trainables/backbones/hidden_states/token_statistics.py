"""Which tokens count in a mean over a prompt's hidden states: all but attention sinks.

Pretrained models park attention on one token, mostly the first, whose hidden state is then 30 to
2,500 times as long as those of the others ("attention sinks", "massive activations":
arXiv:2309.17453, arXiv:2402.17762). What such a token weighs in a mean says nothing of the prompt:
a scale becomes that of the sink, and an activation is diluted by a token that no knowledge is in.
Means, scales and distances over hidden states go by `ordinary_tokens`, but for those that a source
defines over all tokens (COMEBA-HK's z-scores).

The rule: a token is a sink if one of its vectors is longer than `SINK_RATIO` times the median
length over its prompt. Not by position: SmolLM2-135M, which has no begin token, has its sink on
the first word, and in 5 of 300 prompts on a word inside as well; other models have one on the first
full stop too; and a begin token need not be one. Not medians of every prompt: they would make
other numbers where no sink is, and a gradient through one token alone. Without a sink nothing is
left out, so a mean is the plain one to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Measured on SmolLM2-135M, 300 prompts: where the first token is a sink (layers 11 to 28 of 30) it
# is 30 to 690 times as long as the median, those inside 11 to 480 times, all others less than 10.
# In the made-up world's models no token reaches 8.
SINK_RATIO = 10.0


def ordinary_tokens(is_prompt: Tensor, *states: Tensor) -> Tensor:
    """Prompt tokens that are attention sinks in none of `states`, (B, T) bool.

    Args:
        is_prompt: True on prompt tokens, (B, T); nothing else is read, so no target has a say.
        states: (B, T, any width) each.
    """
    counted = is_prompt
    for state in states:
        lengths = torch.linalg.vector_norm(state.float(), dim=-1)
        # The lower of two middle ones: of a sink and a single word it is the word's.
        middle = lengths.masked_fill(~is_prompt, torch.nan).nanmedian(1, keepdim=True).values
        counted = counted & ~(lengths > SINK_RATIO * middle)
    # Two vectors may each call other tokens sinks; a row without any token has no mean.
    return torch.where(counted.any(1, keepdim=True), counted, is_prompt)


def token_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of `values` (B, T) over the tokens of `counted`, (B,)."""
    weights = counted.to(values)
    return (values * weights).sum(1) / weights.sum(1)
