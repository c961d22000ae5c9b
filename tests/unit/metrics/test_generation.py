"""Greedy generation: guesses and rows that end early change its cost, never its answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

from trainables.interfaces import DecodeState, PromptBatch
from trainables.metrics.generation import greedy
from trainables.prompts import Row

END = 9
TOKENIZER = SimpleNamespace(eos_token_id=END, pad_token_id=0)
# What the model says behind each prompt, which is its first token alone.
ANSWERS = {1: [5, 6, END], 2: [3, 3, 3, 3, 3, 3, 3, 3], 3: [END], 4: [7, END]}
PROMPTS = [Row((first,), 1) for first in ANSWERS]
EXPECTED = [[5, 6], [3] * 6, [], [7]]  # at most six tokens


class Recites:
    """A model that knows what follows; counts the tokens that it reads."""

    def __init__(self) -> None:
        self.num_read: list[int] = []

    def __call__(
        self, prompts: PromptBatch, state: DecodeState | None
    ) -> tuple[torch.Tensor, DecodeState]:
        self.num_read.append(int(prompts.attention_mask.sum()))
        before = [()] * len(prompts.input_ids) if state is None else state.route
        rows: list[tuple[int, ...]] = []
        said: list[int] = []
        for index, (ids, mask, scored) in enumerate(
            zip(prompts.input_ids, prompts.attention_mask.bool(), prompts.scored, strict=True)
        ):
            past = tuple(before[index]) if before else ()
            rows.append((*past, *ids[mask].tolist()))
            for place in scored[mask].nonzero()[:, 0].tolist():
                num_behind = len(past) + place  # tokens behind the prompt's one
                answer = ANSWERS[rows[-1][0]]
                is_as_said = list(rows[-1][1 : num_behind + 1]) == answer[:num_behind]
                said.append(answer[num_behind] if is_as_said and num_behind < len(answer) else 0)
        return one_hot(torch.tensor(said), 10).float(), DecodeState(route=rows)


def generated(model: Recites, drafts: Any = None, max_tokens: int = 6) -> list[list[int]]:
    return greedy(model, PROMPTS, TOKENIZER, max_tokens=max_tokens, drafts=drafts)


@pytest.mark.parametrize(
    "drafts",
    [
        None,
        [[], [], [], []],
        [[5, 6, END], [3] * 8, [END], [7, END]],  # all right
        [[5, END], [3, 3, 4, 3], [1, 2], []],  # right for a while, wrong, none
        [[5, 6], [3], [END, 1], [7, END, 2]],  # too short, and on behind the end
        [[8, 8, 8], [8], [8], [8]],
    ],
)
def test_answers_are_the_same_whatever_is_guessed(drafts: Any) -> None:
    assert generated(Recites(), drafts) == EXPECTED


def test_right_guesses_are_read_once_and_nothing_is_generated() -> None:
    model = Recites()
    generated(model, [[5, 6, END], [3] * 6, [END], [7, END]])
    assert model.num_read == [(1 + 2) + (1 + 5) + 1 + (1 + 1)]  # no guess's last token is read


def test_generation_goes_on_behind_the_token_where_a_guess_is_wrong() -> None:
    model = Recites()
    generated(model, [[5, 1, 1], [3] * 6, [END], [7, END]])
    # Rows; then the first alone, with the 5 and the 6 that was said in place of a 1.
    assert model.num_read == [(1 + 2) + (1 + 5) + 1 + (1 + 1), 1 + 2]


def test_rows_that_have_ended_are_left_out_once_they_cost_as_much_as_reading_the_others() -> None:
    model = Recites()
    assert generated(model) == EXPECTED
    # 3 ends with the first token, 4 with the second and 1 with the third. Tokens of ended rows so
    # far, 1, 3 and 6, against those of rows that go on: 3 * 2, 2 * 3 and, reached, 1 * 4.
    assert model.num_read == [4, 4, 4, 4, 1, 1]


def test_many_guesses_are_read_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.metrics.generation._GUESSED_AT_A_TIME", 4)
    model = Recites()
    right = [[5, 6, END], [3] * 6, [END], [7, END]]
    assert generated(model, right) == EXPECTED
    assert model.num_read == [1 + 2, 1 + 5, 1 + 1 + 1]


def test_without_an_end_token_a_continuation_has_all_its_tokens() -> None:
    tokenizer = SimpleNamespace(eos_token_id=None, pad_token_id=0)
    assert greedy(Recites(), PROMPTS[1:2], tokenizer, max_tokens=3) == [[3, 3, 3]]
