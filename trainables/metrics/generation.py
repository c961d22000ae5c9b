"""Greedy generation through an edited model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.interfaces import DecodeState, PromptBatch
from trainables.prompts import Row, collate, pad_id

Known = tuple[Sequence[int], Sequence[int]]  # a text's tokens; what was said in place of each
Logits = Callable[[PromptBatch, DecodeState | None], tuple[Tensor, DecodeState]]
VERSION = 4  # of how much is generated, and of how two texts are compared
GENERATED_TOKENS = 32  # at least so many are generated: where an answer ends is seen then
GENERATED_BEHIND = 8  # and so many more than the longest target has, for another spelling of it
_LOCAL = 0.95  # of the unrelated answers begin as before, for their texts to be taken for the same
_GUESSED_AT_A_TIME = 384  # tokens, as logits over the whole vocabulary are held for each


def greedy(
    logits: Logits,
    prompts: Sequence[Row],
    tokenizer: Any,
    device: torch.device | str = "cpu",
    max_tokens: int = GENERATED_TOKENS,
    is_done: Callable[[Sequence[int]], bool] = lambda ids: False,
    known: Sequence[Known] | None = None,
    drafts: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Greedy continuations, each cut before the end token; the route is taken on the prompt.

    One whose tokens so far are `is_done` does not go on, either.

    Args:
        logits: Of the model.
        prompts: At least one; nothing is known of what follows.
        tokenizer: Of the model.
        device: Where token rows go.
        max_tokens: Most tokens of a continuation.
        is_done: Whether a continuation is complete.
        known: What the model was heard to say behind each beginning of some text.
        drafts: Guesses of the continuations, end tokens included. One pass over a prompt and its
            guess tells up to where the model says the same, which costs less than to generate it:
            hidden states below an edit are kept by row. A guess whose beginning is known to be
            wrong is not tried. Guesses decide the cost, not the answers.
    """
    growing = _Growing(prompts, tokenizer.eos_token_id, max_tokens, is_done)
    pad = pad_id(tokenizer)
    for index, (text, said) in enumerate(known or ()):
        growing.compare(index, text, said)
    for members in _together(growing.still_possible(drafts or ())):
        guesses = [[*(drafts or ())[index]][:max_tokens] for index in members]
        rows = [
            Row((*prompts[index].ids, *guess[:-1]), prompts[index].prompt_length)
            for index, guess in zip(members, guesses, strict=True)
        ]
        batch = collate(rows, pad_id=pad, scores_beyond=True, device=device)
        said = logits(batch, None)[0].argmax(-1).cpu().split(batch.scored_counts)
        for index, guess, tokens in zip(members, guesses, said, strict=True):
            growing.compare(index, guess, tokens.tolist())
    while growing.open:
        _decode(logits, growing, pad, device)
    return growing.grown


def guesses(
    asked: Mapping[int, tuple[str, tuple[int, ...]]],
    answers: Mapping[int, tuple[int, ...]],
    before: Mapping[int, tuple[int, ...]],
    end: int | None,
    limit: int,
) -> dict[int, tuple[int, ...]]:
    """What an edited model may generate for each prompt, with the end token if there is one.

    Of an edit and a rephrase the target. Of all else what the pristine backbone generates, if
    nearly all answers to what is about no edit begin as they did: those alone stay the same for a
    whole generation.

    Args:
        asked: Score and target of each prompt.
        answers: What the model was found to answer, its first token behind the prompt itself.
        before: What the pristine backbone generates.
        end: The end token.
        limit: Most tokens that are generated.
    """
    unrelated = [i for i, (score, _) in asked.items() if score.startswith("locality") and before[i]]
    num_kept = sum(answers[index][0] == before[index][0] for index in unrelated)
    is_local = num_kept >= _LOCAL * len(unrelated)
    found = {}
    for index, (score, target) in asked.items():
        is_edited = score in ("reliability", "generality")
        if is_edited or is_local:
            ids = target if is_edited else before[index]
            found[index] = ids if end is None or len(ids) >= limit else (*ids, end)
    return found


class _Growing:
    """Continuations under way.

    Attributes:
        grown: Tokens of each prompt's continuation.
        open: Prompts whose continuation goes on, ascending.
    """

    def __init__(
        self,
        prompts: Sequence[Row],
        end: int | None,
        max_tokens: int,
        is_done: Callable[[Sequence[int]], bool],
    ) -> None:
        self.grown: list[list[int]] = [[] for _ in prompts]
        self.open = list(range(len(prompts)))
        self._prompts, self._end = prompts, end
        self._max_tokens, self._is_done = max_tokens, is_done

    def row(self, index: int) -> Row:
        """A prompt with its continuation so far."""
        prompt = self._prompts[index]
        return Row((*prompt.ids, *self.grown[index]), prompt.prompt_length)

    def take(self, index: int, token: int) -> bool:
        """The next token of a continuation; False if that ends with it."""
        grown = self.grown[index]
        goes_on = token != self._end
        if goes_on:
            grown.append(token)
            goes_on = len(grown) < self._max_tokens and not self._is_done(grown)
        if not goes_on:
            self.open.remove(index)
        return goes_on

    def compare(self, index: int, text: Sequence[int], said: Sequence[int]) -> None:
        """Take what was said behind each beginning of a text, up to the first that differs.

        The text begins with what has grown so far.
        """
        for number in range(len(self.grown[index]), len(text)):
            if not self.take(index, said[number]) or said[number] != text[number]:
                break

    def still_possible(self, drafts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The drafts that begin as what has grown, and have more; nothing for the others."""
        is_open = set(self.open)

        def is_possible(index: int, draft: Sequence[int]) -> bool:
            grown = self.grown[index]
            is_longer = len(draft) > len(grown)
            return index in is_open and is_longer and [*draft[: len(grown)]] == grown

        return [draft if is_possible(index, draft) else () for index, draft in enumerate(drafts)]


def _decode(logits: Logits, growing: _Growing, pad: int, device: torch.device | str) -> None:
    """Generate for all that are open, until none is or those that are had better be read anew.

    That is when the rows that had ended took as many tokens as reading the others again will take:
    whenever they end, at most twice the least number is computed.
    """
    members = list(growing.open)
    rows = [growing.row(index) for index in members]
    batch = collate(rows, pad_id=pad, scores_last=True, device=device)
    state, num_wasted = DecodeState(), 0
    while True:
        scores, state = logits(batch, state)
        tokens = scores.argmax(-1)
        is_open = set(growing.open)
        for index, token in zip(members, tokens.tolist(), strict=True):
            if index in is_open:
                growing.take(index, token)
        num_wasted += len(members) - len(growing.open)
        longest = max((len(growing.row(index).ids) for index in growing.open), default=0)
        if num_wasted >= len(growing.open) * longest:
            return
        ones = torch.ones_like(tokens)[:, None]
        batch = PromptBatch(tokens[:, None], ones, ones[:, 0], ones.bool())


def _together(drafts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of the drafts that hold anything, in groups of so many tokens as are read at once."""
    group: list[int] = []
    num_tokens = 0
    for index, draft in enumerate(drafts):
        if not draft:
            continue
        if group and num_tokens + len(draft) > _GUESSED_AT_A_TIME:
            yield group
            group, num_tokens = [], 0
        group.append(index)
        num_tokens += len(draft)
    if group:
        yield group
