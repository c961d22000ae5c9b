"""Serial lifelong editing: every question is answered anew several times; the last answer counts.

Source: "Serial Lifelong Editing via Mixture of Knowledge Experts" (ARM), Section 3.1: T questions,
each updated P times, N = T x P edits in all; "we evaluate the last T edits with the associated
latest answers" (Section 4.2). The order is by rounds: all questions with their first answer, then
all with their second, as the memory of a question is meant to be overwritten long after it was
written. The paper does not state its order.

The papers' answers were written by GPT-4o and are not public, so they are made here: the last
answer of a question is the data set's own edit target, which keeps rephrases and portability
questions right, and the P - 1 before it are answers of other records with the same relation.
Where records name no relation, those whose prompt has the same words before its subject stand for
it, then those with the same first two words. What is still missing comes from any record, and is
counted. The choice follows SHA-256, so it is the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trainables.errors import ConfigError
from trainables.records import EditRecord

VERSION = 1
OPENING_WORDS = 2
FEWEST_ANSWERS = 2


@dataclass(frozen=True)
class SerialRecords:
    """The edits of a serial stream.

    Attributes:
        records: T x P records, round by round. Those of the last round are the questions as drawn;
            earlier ones ask the same with another answer and are scored on nothing far away.
        questions: For each record the number of its question, in [0, T).
        num_topped_up: Answers that no record of the same relation or opening could give.
    """

    records: tuple[EditRecord, ...]
    questions: tuple[int, ...]
    num_topped_up: int


def serial_records(
    questions: Sequence[EditRecord],
    pool: Iterable[EditRecord],
    answers_per_question: int,
    seed: int,
) -> SerialRecords:
    """A serial stream of T questions with P answers each.

    The answers of a question differ from each other and from the true one, and none is the
    beginning of another: so at most one of them can be what a model answers.

    Args:
        questions: T records as drawn; their targets are the last answers.
        pool: Records whose true answers and targets may be drawn.
        answers_per_question: P, at least 2.
        seed: Of the trial.

    Raises:
        ConfigError: If P is below 2, or the data holds too few different answers.
    """
    if answers_per_question < FEWEST_ANSWERS:
        raise ConfigError(
            f"protocol.answers_per_question is {answers_per_question}; it must be at least "
            f"{FEWEST_ANSWERS}: with one answer per question use protocol.kind=lifelong"
        )
    answers = _Answers(pool)
    earlier: list[tuple[str, ...]] = []
    num_topped_up = 0
    for record in questions:
        chosen, num_any = answers.alternatives(record, answers_per_question - 1, seed)
        earlier.append(chosen)
        num_topped_up += num_any
    rounds = [
        replace(
            record,
            record_id=f"{record.record_id}#{number + 1}",
            target_new=earlier[question][number],
            locality=(),
            portability=(),
        )
        for number in range(answers_per_question - 1)
        for question, record in enumerate(questions)
    ]
    numbers = tuple(range(len(questions))) * answers_per_question
    return SerialRecords((*rounds, *questions), numbers, num_topped_up)


class _Answers:
    """Answers of a data set, by what their questions have in common."""

    def __init__(self, pool: Iterable[EditRecord]) -> None:
        by_key: Mapping[str, set[str]] = defaultdict(set)
        for record in pool:
            for answer in (record.true_answer, record.target_new):
                if answer:
                    for key in ("", *_kinds(record)):
                        by_key[key].add(answer)
        self._by_key = {key: sorted(answers) for key, answers in by_key.items()}

    def alternatives(
        self, record: EditRecord, num_answers: int, seed: int
    ) -> tuple[tuple[str, ...], int]:
        """So many other answers to `record`, and how many of them came from any record."""
        taken = [text for text in (record.target_new, record.true_answer, record.subject) if text]
        chosen: list[str] = []
        num_any = 0
        for key in (*_kinds(record), ""):
            for answer in self._ranked(key, record, seed):
                if len(chosen) == num_answers:
                    return tuple(chosen), num_any
                if not any(_overlap(answer, other) for other in (*taken, *chosen)):
                    chosen.append(answer)
                    num_any += not key
        if len(chosen) < num_answers:
            raise ConfigError(
                f"protocol.answers_per_question is {num_answers + 1}; the data holds only "
                f"{len(chosen) + 1} different answers for {record.record_id}"
            )
        return tuple(chosen), num_any

    def _ranked(self, key: str, record: EditRecord, seed: int) -> Iterator[str]:
        def rank(answer: str) -> str:
            text = f"serial\0{seed}\0{record.record_id}\0{answer}"
            return hashlib.sha256(text.encode()).hexdigest()

        yield from sorted(self._by_key.get(key, ()), key=rank)


def _kinds(record: EditRecord) -> tuple[str, ...]:
    """Names of what other records may have in common with this one, the closest first."""
    if record.relation is not None:
        return (f"relation {record.relation}",)
    words = record.prompt.casefold().split()
    begin = record.prompt.find(record.subject) if record.subject else 0
    lead = " ".join(record.prompt[:begin].casefold().split()) if begin > 0 else ""
    first = f"words {' '.join(words[:OPENING_WORDS])}"
    return (f"before the subject {lead}", first) if lead else (first,)


def _overlap(answer: str, other: str) -> bool:
    """Whether one of the two begins with the other; letter case is ignored."""
    one, two = answer.casefold(), other.casefold()
    return one.startswith(two) or two.startswith(one)
