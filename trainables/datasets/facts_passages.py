"""Passages about the subjects of the made-up world, in the form of `hallucination`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Literal

from trainables.datasets.facts import made_up
from trainables.records import EditRecord

VERSION = 1
TARGET_FIELDS = made_up.TARGET_FIELDS
HAS_PASSAGES = True
NUM_LEAD = 2  # sentences of a passage before the one that is edited


def records(
    part: Literal["tune", "report", "all"], known: Collection[str] | None = None
) -> tuple[EditRecord, ...]:
    """The passages of one part; see `passages` and `made_up.records`."""
    return passages(made_up.records(made_up.build_world(), part, known))


def digest() -> str:
    """SHA-256 of the made-up world and of what is made of it here."""
    content = f"{made_up.digest(made_up.build_world())} facts_passages {VERSION}"
    return hashlib.sha256(content.encode()).hexdigest()


def passages(records: Iterable[EditRecord]) -> tuple[EditRecord, ...]:
    """Passages about the subjects of the made-up world, for the embedded backbones.

    One passage per subject with three edits or more: two of its sentences as they are true, then
    the third with its edited answer as the target. The locality questions are the far ones of that
    edit; records without any are left out.

    Args:
        records: Edits of the made-up world, in their order.
    """
    by_subject: dict[str, list[EditRecord]] = {}
    for record in records:
        if record.subject is not None and record.true_answer is not None:
            by_subject.setdefault(record.subject, []).append(record)
    made = []
    for subject, own in by_subject.items():
        if len(own) <= NUM_LEAD:
            continue
        lead, last = own[:NUM_LEAD], own[NUM_LEAD]
        far = tuple(question for question in last.locality if question.kind == "locality_far")
        if far:
            sentences = [f"{record.prompt} {record.true_answer}." for record in lead]
            made.append(
                EditRecord(
                    record_id=f"passage/{last.record_id}",
                    prompt=" ".join((f"This is a passage about {subject}.", *sentences)),
                    target_new=f"{last.prompt} {last.target_new}.",
                    subject=subject,
                    locality=far,
                )
            )
    return tuple(made)
