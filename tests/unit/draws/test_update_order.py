"""In which order the questions of a serial stream get their answers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.draws.update_order import UPDATE_ORDERS, serial_batches
from trainables.errors import ConfigError

# record p T + t: 0 1 2 are the first answers of three questions, 3 4 5 their second ones
FIRST, SECOND = (0, 1, 2), (3, 4, 5)


def batches(
    num_questions: int, num_rounds: int, size: int = 1, seed: int = 0, **orders: str
) -> list[list[int]]:
    chosen: dict[str, Any] = {"order": "given", "update_order": "rounds", **orders}
    return serial_batches(num_questions, num_rounds, size, seed=seed, **chosen)


def in_turn(planned: list[list[int]]) -> list[int]:
    return [record for batch in planned for record in batch]


def test_rounds_ask_every_question_once_before_any_is_asked_again() -> None:
    assert in_turn(batches(3, 2)) == [*FIRST, *SECOND]


def test_bursts_give_a_question_all_its_answers_before_the_next_is_asked() -> None:
    assert in_turn(batches(3, 2, update_order="bursts")) == [0, 3, 1, 4, 2, 5]


def test_a_batch_of_bursts_is_one_answer_of_questions_that_stay_together() -> None:
    found = batches(3, 2, 2, update_order="bursts")
    assert found == [[0, 1], [3, 4], [2], [5]]
    assert batches(3, 2, 3, update_order="bursts") == batches(3, 2, 3)  # one burst of all of them


def test_bursts_of_shuffled_questions_shuffle_the_questions_alone() -> None:
    found = in_turn(batches(9, 2, update_order="bursts", order="random"))
    questions = found[::2]
    assert found[1::2] == [record + 9 for record in questions]
    assert sorted(questions) == list(range(9)) != questions


@given(
    num_questions=st.integers(1, 7),
    num_rounds=st.integers(2, 5),
    size=st.integers(1, 7),
    seed=st.integers(0, 2**32),
    update_order=st.sampled_from(UPDATE_ORDERS),
)
def test_every_order_edits_each_record_once_and_each_question_in_the_order_of_its_answers(
    num_questions: int, num_rounds: int, size: int, seed: int, update_order: str
) -> None:
    planned = batches(num_questions, num_rounds, size, seed, update_order=update_order)
    found = in_turn(planned)
    assert sorted(found) == list(range(num_questions * num_rounds))
    newest = {}
    for record in found:
        question = record % num_questions
        assert record == newest.get(question, question - num_questions) + num_questions
        newest[question] = record
    # so all of them end with the same answers: those of the last round
    assert sorted(newest.values()) == [
        (num_rounds - 1) * num_questions + question for question in range(num_questions)
    ]
    # counts of batches are those that the plan makes, whatever the order
    assert len(planned) == -(-num_questions // size) * num_rounds
    for batch in planned:
        assert len({record % num_questions for record in batch}) == len(batch) <= size


def test_random_takes_every_sequence_equally_often_and_its_seed_decides() -> None:
    # two questions twice: 4! / (2! 2!) = 6 sequences
    found = Counter(
        tuple(in_turn(batches(2, 2, seed=seed, update_order="random"))) for seed in range(1200)
    )
    assert set(found) == {
        *((0, 1, 2, 3), (0, 1, 3, 2), (1, 0, 2, 3), (1, 0, 3, 2)),
        *((0, 2, 1, 3), (1, 3, 0, 2)),
    }
    # 200 of each are expected, with a deviation of 12.9: all within four of these
    assert all(148 <= count <= 252 for count in found.values())
    assert batches(5, 3, seed=7, update_order="random") == batches(
        5, 3, seed=7, update_order="random"
    )


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ({"order": "kmeans_filled"}, r"protocol.order is 'kmeans_filled'.*given or random"),
        ({"update_order": "reversed"}, r"update_order is 'reversed'; .*rounds, bursts, random"),
        ({"order": "random", "update_order": "random"}, r"shuffles all updates already"),
    ],
)
def test_orders_that_are_unknown_or_do_not_fit_are_refused(
    orders: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        batches(3, 2, **orders)
