"""Serial lifelong editing: every question is answered anew several times; the last answer counts.

Source: "Serial Lifelong Editing via Mixture of Knowledge Experts" (ARM), Section 3.1: T questions,
each updated P times, N = T x P edits in all; "we evaluate the last T edits with the associated
latest answers" (Section 4.2). In which order they come `update_order.py` says.

The papers' answers were written by GPT-4o (Appendix A) and are not public. Others may come from a
file; without one they are made here: the last answer of a question is the data set's own edit
target, which keeps rephrases and portability questions right, and the P - 1 before it are answers
of other records with the same relation.
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
        num_other_targets: Questions whose last answer is not the one of their record.
        not_told_apart: Older records whose answer begins the last one of their question, or is
            begun by it: a model that gives the last answer may give theirs with it.
    """

    records: tuple[EditRecord, ...]
    questions: tuple[int, ...]
    num_topped_up: int = 0
    num_other_targets: int = 0
    not_told_apart: frozenset[int] = frozenset()


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
    alternatives = _Alternatives(pool)
    answers: list[tuple[str, ...]] = []
    num_topped_up = 0
    for record in questions:
        chosen, num_any = alternatives.to(record, answers_per_question - 1, seed)
        answers.append((*chosen, record.target_new))
        num_topped_up += num_any
    return replace(answered_records(questions, answers), num_topped_up=num_topped_up)


def answered_records(
    questions: Sequence[EditRecord], answers: Sequence[Sequence[str]]
) -> SerialRecords:
    """A serial stream whose answers are given.

    A question whose last answer is another one than its record's target is scored by that answer;
    its portability questions, which follow from the target, are left out.

    Args:
        questions: T records as drawn.
        answers: Of each question the same number P of answers, in the order of their editing.
    """
    rounds = [
        replace(
            record,
            record_id=f"{record.record_id}#{number}",
            target_new=answer,
            locality=(),
            portability=(),
        )
        for number, given in enumerate(zip(*answers, strict=True), start=1)
        for record, answer in zip(questions, given, strict=True)
    ][: -len(questions)]
    last = [
        record
        if record.target_new == given[-1]
        else replace(record, target_new=given[-1], portability=())
        for record, given in zip(questions, answers, strict=True)
    ]
    numbers = tuple(range(len(questions))) * len(answers[0])
    return SerialRecords(
        (*rounds, *last),
        numbers,
        num_other_targets=sum(one != other for one, other in zip(last, questions, strict=True)),
        not_told_apart=frozenset(
            index
            for index, record in enumerate(rounds)
            if _overlap(record.target_new, last[numbers[index]].target_new)
        ),
    )


class _Alternatives:
    """Answers of a data set, by what their questions have in common."""

    def __init__(self, pool: Iterable[EditRecord]) -> None:
        by_key: Mapping[str, set[str]] = defaultdict(set)
        for record in pool:
            for answer in (record.true_answer, record.target_new):
                if answer:
                    for key in ("", *_kinds(record)):
                        by_key[key].add(answer)
        self._by_key = {key: sorted(answers) for key, answers in by_key.items()}

    def to(self, record: EditRecord, num_answers: int, seed: int) -> tuple[tuple[str, ...], int]:
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
