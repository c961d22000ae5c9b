"""What a network is trained on: some edits made at once, and what has to hold after them.

    L = edit_weight * NLL(target | rephrase) + locality_weight * KL(before || after)

The first term is a mean over the edits, each asked in one of its rephrases (its own prompt where it
has none), the second over one unrelated question of each. Sources: `networks.py`.

The gradient by the network's parameters goes in two steps (MALMEN, Section 4): backward through the
edited backbone to its weights alone, then from there through the network. So the two graphs never
exist at the same time, and the result is that of a single backward pass.

Choices where the papers are silent:
- Half of the problems close their targets with the end token, as protocols may do either.
- A question is left out where one of the edits made at once asks the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from trainables.backbones.forward.split import Split
from trainables.interfaces import EditBatch, PromptBatch, Question, TrainingRecord
from trainables.optimise import token_losses
from trainables.prompts import collate, edit_batch, pad_id, row_index, tokenise

ROWS_PER_PASS = 64
Item = TypeVar("Item")


@dataclass(frozen=True)
class Asked:
    """Rows that are read after the edits, with what is compared at their scored positions.

    Attributes:
        tokens: The rows.
        wanted: Target tokens (M,) int64, or log-probabilities before the edits, (M, V) float32.
        weights: Of each position in the loss, (M,).
    """

    tokens: PromptBatch
    wanted: Tensor
    weights: Tensor

    def parts(self, size: int) -> Iterator[Asked]:
        """The same, at most so many rows at a time."""
        ends = [0, *accumulate(self.tokens.scored_counts)]
        for rows in torch.arange(len(self.tokens.input_ids)).split(size):
            own = slice(ends[int(rows[0])], ends[int(rows[-1]) + 1])
            yield Asked(self.tokens.rows(rows), self.wanted[own], self.weights[own])


@dataclass(frozen=True)
class Problem:
    """Edits made at once, and what is asked after them.

    Attributes:
        edits: With their tokens.
        rephrases: Whose targets the edits must bring about.
        unrelated: What they must leave alone; None where there is nothing to ask.
    """

    edits: EditBatch
    rephrases: Asked
    unrelated: Asked | None


@dataclass(frozen=True)
class ProblemSettings:
    """What a problem is made of.

    Attributes:
        edit_weight: Of the first term.
        locality_weight: Of the second.
        keeps_all_tokens: Whether the second compares all tokens of a question and its answer,
            instead of those that predict the answer.
    """

    edit_weight: float
    locality_weight: float
    keeps_all_tokens: bool


def drawn_problem(
    records: Sequence[TrainingRecord],
    settings: ProblemSettings,
    split: Split,
    generator: torch.Generator,
) -> Problem:
    """The problem of making the edits of `records` at once; the backbone must be unedited."""
    backbone = split.backbone
    tokenizer, device = backbone.tokenizer, backbone.device
    has_end = bool(torch.rand((), generator=generator) < 0.5)
    edits = [record.edit for record in records]
    prompts = [_one_of(r.rephrases or (r.edit.prompt,), generator) for r in records]
    asked = edit_batch(
        tokenizer,
        [replace(edit, prompt=prompt) for edit, prompt in zip(edits, prompts, strict=True)],
        end=has_end,
        device=device,
    )
    return Problem(
        edit_batch(tokenizer, edits, end=has_end, device=device),
        Asked(asked.tokens, asked.labels, _weights(asked.tokens, settings.edit_weight)),
        _unrelated(records, settings, split, generator),
    )


def token_terms(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Weighted NLL of tokens `wanted` (M,), or KL from log-probabilities (M, V); (M,)."""
    if wanted.ndim == 1:
        return weights * token_losses(logits, wanted)
    after = logits.float().log_softmax(-1)
    return weights * (wanted.exp() * (wanted - after)).sum(-1)


def _unrelated(
    records: Sequence[TrainingRecord],
    settings: ProblemSettings,
    split: Split,
    generator: torch.Generator,
) -> Asked | None:
    """One question of each record that has one, with what the backbone says there now."""
    edited = {record.edit.prompt for record in records}
    offered = [[q for q in record.unrelated if q.prompt not in edited] for record in records]
    questions: list[Question] = [_one_of(own, generator) for own in offered if own]
    if not questions or not settings.locality_weight:
        return None
    backbone = split.backbone
    rows = [tokenise(backbone.tokenizer, each.prompt, each.answer) for each in questions]
    tokens = collate(rows, pad_id=pad_id(backbone.tokenizer), device=backbone.device)
    if settings.keeps_all_tokens:
        tokens = PromptBatch(
            tokens.input_ids,
            tokens.attention_mask,
            tokens.prompt_lengths,
            tokens.attention_mask.bool(),
        )
    asked = Asked(
        tokens,
        torch.empty(sum(tokens.scored_counts), 0, device=backbone.device),
        _weights(tokens, settings.locality_weight),
    )
    with torch.no_grad(), backbone.micro_batch.undivided():
        before = [
            split.per_token(_log_probabilities, part.tokens)
            for part in asked.parts(backbone.micro_batch.at_most(ROWS_PER_PASS))
        ]
    return replace(asked, wanted=torch.cat(before))


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)


def _weights(tokens: PromptBatch, weight: float) -> Tensor:
    """Of each scored position, so that their sum is `weight` and all rows count alike."""
    counts = tokens.scored.sum(1)
    return weight / (len(counts) * counts[row_index(tokens)]).float()


def _one_of(items: Sequence[Item], generator: torch.Generator) -> Item:
    return items[int(torch.randint(len(items), (), generator=generator))]
