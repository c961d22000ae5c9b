"""Draws records, splits a data set into parts, and puts records into consecutive batches.

Draws and parts come from SHA-256 rather than from a random generator: they stay the same over
library versions and machines, and adding records to a file hardly changes a draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

from trainables.errors import ConfigError
from trainables.records import Edit, EditRecord

Part = Literal["tune", "report", "all"]
Item = TypeVar("Item")


def split(
    records: Sequence[EditRecord], part: Part, tune_share: float = 0.3
) -> tuple[EditRecord, ...]:
    """The records of one part, in their order; `tune` and `report` share no subject.

    A subject (its prompt, where a record has none) belongs to `tune` when its hash, read as a
    number in [0, 1), is below `tune_share`; letter case is ignored. `all` holds both.

    Raises:
        ConfigError: If `part` is unknown or `tune_share` lies outside [0, 1].
    """
    if part not in get_args(Part):
        raise ConfigError(f"dataset.part is {part!r}; it must be {', '.join(get_args(Part))}")
    if not 0 <= tune_share <= 1:
        raise ConfigError(f"dataset.tune_share is {tune_share:g}; it must lie in [0, 1]")
    if part == "all":
        return tuple(records)
    wants_tune = part == "tune"
    return tuple(record for record in records if (_share(topic(record)) < tune_share) == wants_tune)


def topic(record: EditRecord) -> str:
    """Records with the same topic stay in one part: the subject, or the prompt without one."""
    return (record.subject or record.prompt).casefold()


def drawn_records(
    records: Sequence[EditRecord],
    num_edits: int,
    seed: int,
    key: str = "protocol.num_edits",
    hint: str = "",
) -> tuple[EditRecord, ...]:
    """`num_edits` records drawn without replacement, no two with the same prompt.

    Records are taken in the order of a hash of seed, prompt and id. So a smaller draw with the
    same seed is the beginning of a larger one, and of records that share a prompt the seed picks.

    Args:
        records: What is drawn from.
        num_edits: How many.
        seed: Of the trial.
        key: Name of the setting that `num_edits` comes from.
        hint: Ends the error's message: where more records are.

    Raises:
        ConfigError: If `num_edits` is below 1 or above the number of different prompts.
    """
    if num_edits < 1:
        raise ConfigError(f"{key} is {num_edits}; it must be at least 1")

    def rank(record: EditRecord) -> str:
        text = f"{seed}\0{record.prompt}\0{record.record_id}"
        return hashlib.sha256(text.encode()).hexdigest()

    first_of_prompt: dict[str, EditRecord] = {}
    for record in sorted(records, key=rank):
        first_of_prompt.setdefault(record.prompt, record)
    if num_edits > len(first_of_prompt):
        raise ConfigError(
            f"{key} is {num_edits}; the data offers {len(first_of_prompt)} different "
            f"prompts, so it must lie in [1, {len(first_of_prompt)}]{hint}"
        )
    return tuple(first_of_prompt.values())[:num_edits]


def batches(order: Sequence[Item], edit_batch_size: int) -> tuple[tuple[Item, ...], ...]:
    """Consecutive batches of `edit_batch_size`; the last one holds what is left.

    Raises:
        ConfigError: If `edit_batch_size` is below 1.
    """
    if edit_batch_size < 1:
        raise ConfigError(f"protocol.edit_batch_size is {edit_batch_size}; it must be at least 1")
    starts = range(0, len(order), edit_batch_size)
    return tuple(tuple(order[start : start + edit_batch_size]) for start in starts)


def to_edit(record: EditRecord, training_locality: Sequence[str] = ()) -> Edit:
    """What a method may see of `record`; nothing that it is scored on but the edit itself.

    Args:
        record: The fact to change.
        training_locality: Unrelated prompts from another split.

    Raises:
        ValueError: If one of `training_locality` is a locality prompt of the record itself.
    """
    leaked = {question.prompt for question in record.locality} & set(training_locality)
    if leaked:
        raise ValueError(
            f"{record.record_id}: {min(leaked)!r} is scored, so it may not be trained on"
        )
    return Edit(
        record.prompt,
        record.target_new,
        record.subject,
        tuple(training_locality),
        record.true_answer,
    )


def _share(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
