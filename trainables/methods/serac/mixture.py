"""Answers each prompt by one of two models, or by a mixture of what both say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from trainables.interfaces import DecodeState, PromptBatch
from trainables.prompts import row_index

Answer: TypeAlias = Callable[[PromptBatch, Tensor, DecodeState | None], tuple[Tensor, DecodeState]]


@dataclass(frozen=True)
class Share:
    """How much of each of B prompts' answers the second model gives.

    Attributes:
        second: (B,) float32 on the host, in [0, 1].
    """

    second: Tensor

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """The rows that the first model is asked, and those that the second is."""
        return (self.second < 1).nonzero()[:, 0], (self.second > 0).nonzero()[:, 0]


def mixed(
    prompts: PromptBatch, share: Share, answers: tuple[Answer, Answer], state: DecodeState | None
) -> tuple[Tensor, DecodeState]:
    """Logits (M, V), or log-probabilities where both models have a share.

    A row with a share of 0 or 1 has the logits of the one model, untouched; of another row they are
    log((1 - share) softmax(first) + share softmax(second)).

    Args:
        prompts: B rows.
        share: Of the second model.
        answers: Each gives the logits of some rows, told by their numbers, and what it needs for
            the next token.
        state: As in `EditMethod.logits`; each model has its own inside.
    """
    inner = _states(state)
    found, after = list[tuple[Tensor, Tensor | None]](), []
    for rows, answer, own in zip(share.rows, answers, inner, strict=True):
        logits = None
        if len(rows):
            logits, own = answer(prompts.rows(rows), rows, own)
        found.append((rows, logits))
        after.append(own)
    joined = _joined(prompts, share, found)
    return joined, DecodeState() if state is None else DecodeState(tuple(after), None, state.route)


def _states(
    state: DecodeState | None,
) -> tuple[DecodeState | None, DecodeState | None]:
    if state is None:
        return None, None
    return (DecodeState(), DecodeState()) if state.cache is None else state.cache


def _joined(
    prompts: PromptBatch, share: Share, found: list[tuple[Tensor, Tensor | None]]
) -> Tensor:
    """What both models said, at the scored positions of all rows."""
    position_row = row_index(prompts.on_host)
    given = [logits for _, logits in found if logits is not None]
    joined = given[0].new_empty(len(position_row), given[0].shape[1])
    places = [torch.isin(position_row, rows).nonzero()[:, 0].to(joined.device) for rows, _ in found]
    for place, (_, logits) in zip(places, found, strict=True):
        if logits is not None:
            joined[place] = logits.to(joined)
    both = (share.second > 0) & (share.second < 1)
    if both.any():
        second = share.second[position_row].to(joined.device, torch.float32)[:, None]
        is_both = both[position_row].to(joined.device)
        first, other = (
            _at(logits, place, is_both) for place, (_, logits) in zip(places, found, strict=True)
        )
        weight = second[is_both]
        joined[is_both] = torch.logaddexp(
            torch.log1p(-weight) + first.float().log_softmax(-1),
            weight.log() + other.float().log_softmax(-1),
        ).to(joined)
    return joined


def _at(logits: Tensor | None, place: Tensor, is_both: Tensor) -> Tensor:
    """Those of a model's logits, which lie at `place`, that belong to rows of both."""
    assert logits is not None
    return logits[is_both[place].to(logits.device)]
