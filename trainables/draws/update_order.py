"""In which order the questions of a serial stream get their answers.

Source: "Serial Lifelong Editing via Mixture of Knowledge Experts" (ARM). The paper names no order.
Its Section 4.2 scores the last T edits, each with the latest answer of its question: that are all T
questions by `rounds` alone, which is therefore the default. Eq. 1 asks for the latest answer of
every question, whatever the order, and that is what is scored here in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.draws import streams
from trainables.errors import ConfigError

UPDATE_ORDERS = ("rounds", "bursts", "random")
QUESTION_ORDERS = ("given", "random")


def serial_batches(
    num_questions: int,
    num_rounds: int,
    edit_batch_size: int,
    *,
    order: str,
    update_order: str,
    seed: int,
) -> list[list[int]]:
    """Batches of a serial stream's records, in the order of their editing.

    - `rounds`: every question gets its first answer, then every question its second, ...
    - `bursts`: one question gets all its answers in a row, then the next one.
    - `random`: all updates shuffled, but for the order of the answers within each question: every
      such sequence is equally likely.

    A batch holds the same answer, first, second, ..., of `edit_batch_size` questions, so that none
    holds two answers of one question. In `bursts` and `random` the questions of a batch stay
    together: they are what a burst is of, and what is shuffled.

    Args:
        num_questions: T; record p T + t is answer p of question t, both counted from 0.
        num_rounds: P, answers of each.
        edit_batch_size: Questions that are edited at once; the last of a round are what is left.
        order: Of the questions: `given`, or `random`, in `rounds` anew for every round.
        update_order: One of `UPDATE_ORDERS`.
        seed: Of everything random.

    Raises:
        ConfigError: If an order is unknown or the two do not fit, or a batch is below 1.
    """
    _check(order, update_order)
    generator = np.random.default_rng(seed)

    def groups() -> Sequence[Sequence[int]]:
        is_random = order == "random"
        questions = generator.permutation(num_questions) if is_random else range(num_questions)
        return streams.batches([int(question) for question in questions], edit_batch_size)

    if update_order == "rounds":
        return [
            [number * num_questions + question for question in group]
            for number in range(num_rounds)
            for group in groups()
        ]
    together = groups()
    turns = np.repeat(np.arange(len(together)), num_rounds)
    if update_order == "random":
        turns = generator.permutation(turns)
    num_answered = [0] * len(together)
    planned = []
    for turn in turns.tolist():
        first = num_answered[turn] * num_questions
        planned.append([first + question for question in together[turn]])
        num_answered[turn] += 1
    return planned


def _check(order: str, update_order: str) -> None:
    if order not in QUESTION_ORDERS:
        allowed = " or ".join(QUESTION_ORDERS)
        raise ConfigError(f"protocol.order is {order!r}; with protocol.kind=serial it is {allowed}")
    if update_order not in UPDATE_ORDERS:
        allowed = ", ".join(UPDATE_ORDERS)
        raise ConfigError(f"protocol.update_order is {update_order!r}; it must be {allowed}")
    if (order, update_order) == ("random", "random"):
        raise ConfigError(
            "protocol.order is 'random'; protocol.update_order=random shuffles all updates already"
        )
