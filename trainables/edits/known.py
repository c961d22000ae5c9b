"""Keeps what a backbone knows of a data set: the facts whose true answer it gives unedited.

The backbone is asked in `asking`; here nothing needs torch, as the driver draws edits too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from trainables.errors import DataError
from trainables.records import EditRecord, Question

if TYPE_CHECKING:
    from trainables.edits.sources import Source

Fact: TypeAlias = tuple[str, str]  # a prompt, and the answer that is true


@dataclass(frozen=True)
class Knowledge:
    """How many facts of a part of a data set the backbone holds.

    Attributes:
        num_known: Different prompts of edits that it answers rightly.
        num_facts: Different prompts of edits whose true answer is stated.
        by_relation: The same two numbers for each relation, where the data names them.
    """

    num_known: int
    num_facts: int
    by_relation: tuple[tuple[str, int, int], ...] = ()

    def __str__(self) -> str:
        parts = [f"{name} {known} of {facts}" for name, known, facts in self.by_relation]
        return f"{self.num_known} of {self.num_facts} facts" + (
            f" ({', '.join(parts)})" if parts else ""
        )


def true_facts(records: Iterable[EditRecord]) -> tuple[Fact, ...]:
    """What the records say was true before their edits, each once, in their order."""
    stated = ((r.prompt, r.true_answer) for r in records if r.true_answer is not None)
    return tuple(dict.fromkeys(stated))


def asked_facts(records: Sequence[EditRecord]) -> tuple[Fact, ...]:
    """The facts of the edits and of their locality questions, each once."""
    questions = ((q.prompt, q.answer) for record in records for q in record.locality)
    return tuple(dict.fromkeys((*true_facts(records), *questions)))


def digest(facts: Sequence[Fact]) -> str:
    """SHA-256 of the facts in their order."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def check_answers(dataset: str, records: Sequence[EditRecord]) -> None:
    """Raises DataError where `known_only` has nothing to go by."""
    if not true_facts(records):
        raise DataError(
            f"dataset.known_only=true: none of the {len(records)} records of dataset={dataset} "
            "says which answer was true before, so that nobody can tell what the backbone knows"
        )


def only_known(source: Source, known: Collection[Fact], dataset: str, backbone: str) -> Source:
    """`source` with the edits and the locality questions that the backbone answers rightly.

    Args:
        source: Of all records of the part.
        known: Which of `asked_facts` it answers rightly.
        dataset: Name, for errors.
        backbone: Name, for errors.

    Raises:
        DataError: If it knows no fact at all.
    """
    held = frozenset(known)
    kept = tuple(
        replace(record, locality=_known_questions(record, held))
        for record in source.records
        if (record.prompt, record.true_answer) in held
    )
    found = knowledge(source.records, kept)
    if not kept:
        raise DataError(
            f"dataset.known_only=true: backbone={backbone} answers none of the {found.num_facts} "
            f"facts of dataset={dataset}, dataset.part={source.part}, rightly"
        )
    records = asked_at_most(kept, source.most_asked)
    return replace(source, records=records, knowledge=found)


def knowledge(records: Sequence[EditRecord], kept: Sequence[EditRecord]) -> Knowledge:
    """How many facts of `records` are among those `kept`."""
    facts = {r.prompt: r.relation or "" for r in records if r.true_answer is not None}
    held = {record.prompt for record in kept}
    relations = sorted({name for name in facts.values() if name})
    return Knowledge(
        len(held),
        len(facts),
        tuple(
            (
                name,
                sum(facts[prompt] == name for prompt in held),
                sum(relation == name for relation in facts.values()),
            )
            for name in relations
        ),
    )


def asked_at_most(records: Sequence[EditRecord], most: int | None) -> tuple[EditRecord, ...]:
    """The records with their first `most` locality questions of each kind; None: with all.

    A prompt is asked once, whatever answers are offered for it.
    """
    if most is None:
        return tuple(records)
    return tuple(replace(record, locality=_first(record.locality, most)) for record in records)


def _known_questions(record: EditRecord, held: frozenset[Fact]) -> tuple[Question, ...]:
    return tuple(q for q in record.locality if (q.prompt, q.answer) in held)


def _first(questions: Sequence[Question], most: int) -> tuple[Question, ...]:
    by_kind: dict[str, dict[str, Question]] = {}
    for question in questions:
        own = by_kind.setdefault(question.kind, {})
        if len(own) < most:
            own.setdefault(question.prompt, question)
    return tuple(question for own in by_kind.values() for question in own.values())
