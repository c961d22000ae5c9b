"""What a method may train itself on ahead of the edits: records of which no trial scores a word.

A record's own questions of locality serve, but for those that are scored. Most data sets ask the
same questions of many records, so of one part's hardly any is left unscored; each that is not is
replaced by one of its kind: `near` and `same` by the prompt of another training record, with the
answer that is true there, `far` by one of a pool of unscored ones.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trainables.draws.streams import to_edit, topic
from trainables.errors import DataError
from trainables.records import EditRecord, Question, TrainingRecord

MOST_UNRELATED = 8  # questions of one record
_FAR = "locality_far"
Item = TypeVar("Item")


def scored_prompts(records: Iterable[EditRecord]) -> frozenset[str]:
    """Every prompt that a trial on some of `records` may be scored on."""
    return frozenset(
        prompt for record in records for prompt in (record.prompt, *_other_prompts(record))
    )


def training_records(
    records: Sequence[EditRecord],
    scored: Collection[str],
    pool: Sequence[Question] = (),
    shown: Sequence[str] = (),
) -> tuple[TrainingRecord, ...]:
    """What `records` teach, in their order; no prompt of it is among `scored`.

    A record whose own prompt is scored teaches nothing and is left out.

    Args:
        records: Of the part that is trained on, without those that a trial edits.
        scored: Prompts that trials are scored on.
        pool: Unscored questions, for records that are left with too few of their own.
        shown: The `training_locality` of each edit.
    """
    allowed = [record for record in records if record.prompt not in scored]
    find = _Unrelated(allowed, scored, [each for each in pool if each.prompt not in scored])
    return tuple(
        TrainingRecord(
            to_edit(record, shown),
            tuple(prompt for prompt in record.rephrases if prompt not in scored),
            find.of(record),
        )
        for record in allowed
    )


def unscored_questions(
    records: Sequence[EditRecord], scored: Sequence[EditRecord], most: int
) -> tuple[Question, ...]:
    """At most so many locality questions of records outside `scored` that those are not asked."""
    own = {record.record_id for record in scored}
    asked = scored_prompts(scored)
    found: dict[str, Question] = {}
    for record in records:
        for question in record.locality if record.record_id not in own else ():
            if question.prompt not in asked:
                found.setdefault(question.prompt, question)
    return tuple(found.values())[:most]


def asks_alike(records: Sequence[EditRecord]) -> bool:
    """Whether one record's edit is another's question, so that a split by subject parts them not.

    Locality questions may be shared: they change nothing.
    """
    topics = {(record.prompt, topic(record)) for record in records}
    prompts = {prompt for prompt, _ in topics}
    asked = {
        prompt
        for record in records
        for prompt in (*record.rephrases, *(question.prompt for question in record.portability))
    }
    locality = {question.prompt for record in records for question in record.locality}
    return len(prompts) < len(topics) or not (
        prompts.isdisjoint(asked) and locality.isdisjoint(prompts | asked)
    )


def learned_and_held_out(
    training: Sequence[TrainingRecord],
    held_out: float,
    most_held_out: int,
    per_step: int,
    name: str,
) -> tuple[list[TrainingRecord], list[TrainingRecord]]:
    """Those that a network learns from and those it is judged by, in their order.

    No subject is in both; at least one is held out.

    Args:
        training: What a method is handed.
        held_out: Share of it that is held out.
        most_held_out: Most records of it, but for those of a subject that is begun.
        per_step: Records that one step learns from.
        name: Of the method, for the message.

    Raises:
        DataError: If that leaves too few to learn from.
    """
    wanted = max(1, min(most_held_out, round(held_out * len(training))))
    members: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(training):
        members[(record.edit.subject or record.edit.prompt).casefold()].append(index)
    held = set[int]()
    for subject in sorted(members, key=lambda text: hashlib.sha256(text.encode()).hexdigest()):
        if len(held) < wanted:
            held.update(members[subject])
    learned = [record for index, record in enumerate(training) if index not in held]
    if len(learned) < max(1, per_step):
        raise DataError(
            f"method {name} trains a network on records that no trial is scored on: there are "
            f"{len(training)}, of which {len(held)} are held out, and a step takes {per_step}; "
            "dataset.part=report leaves it the whole tune part"
        )
    return learned, [training[index] for index in sorted(held)]


class _Unrelated:
    """Finds unscored questions whose answers the change of a record leaves alone."""

    def __init__(
        self, records: Sequence[EditRecord], scored: Collection[str], far: Sequence[Question]
    ) -> None:
        self._scored, self._far = scored, far
        self._near: dict[str, list[_Asked]] = defaultdict(list)
        self._same: dict[str, list[_Asked]] = defaultdict(list)
        for record in records:
            if record.true_answer is None or record.relation is None:
                continue
            asked = _Asked(record.prompt, record.true_answer, topic(record), record.relation)
            self._near[asked.relation].append(asked)
            self._same[asked.topic].append(asked)

    def of(self, record: EditRecord) -> tuple[Question, ...]:
        """At most so many questions, each of another prompt; none where there is none."""
        own = [each for each in record.locality if each.prompt not in self._scored]
        lost = [each.kind for each in record.locality if each.prompt in self._scored]
        found = [
            *own,
            *self._siblings(record, "locality_near", lost.count("locality_near")),
            *self._siblings(record, "locality_same", lost.count("locality_same")),
            *_some(self._far, lost.count(_FAR), record.prompt),
        ]
        if not found:
            found = _some(self._far, MOST_UNRELATED, record.prompt)
        different = {each.prompt: each for each in found if each.prompt != record.prompt}
        return tuple(_some(list(different.values()), MOST_UNRELATED, record.prompt))

    def _siblings(self, record: EditRecord, kind: str, count: int) -> list[Question]:
        if not count or record.relation is None:
            return []
        own = topic(record)
        if kind == "locality_near":
            others = [each for each in self._near[record.relation] if each.topic != own]
        else:
            others = [each for each in self._same[own] if each.relation != record.relation]
        return [
            Question(each.prompt, each.answer, kind)
            for each in _some(others, count, f"{record.prompt}\0{kind}")
        ]


@dataclass(frozen=True)
class _Asked:
    """What another training record asks, and what is true there."""

    prompt: str
    answer: str
    topic: str
    relation: str


def _some(items: Sequence[Item], count: int, text: str) -> list[Item]:
    """At most `count` neighbours of `items`, from a place on that `text` decides."""
    if len(items) <= count:
        return list(items)
    start = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") % len(items)
    return [items[(start + step) % len(items)] for step in range(count)]


def _other_prompts(record: EditRecord) -> tuple[str, ...]:
    """What `record` is scored on beside its own prompt."""
    asked = (*record.locality, *record.portability)
    return (*record.rephrases, *(question.prompt for question in asked))
