"""Draws the records that a trial edits; the same ones for every arm of a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from trainables.draws import serial, streams
from trainables.draws.frequency_band import in_band
from trainables.draws.groups import similarity_groups
from trainables.edits.sources import Source
from trainables.errors import ConfigError
from trainables.records import EditRecord
from trainables.spec import DatasetSpec, ProtocolSpec, TrialSpec

FREQUENCY_SOURCES = ("known", "gece")


@dataclass(frozen=True)
class Drawn:
    """The records that a trial edits.

    Attributes:
        records: One per edit.
        questions: For each record the number of its question; several answer the same one in a
            serial stream alone.
        counts: Numbers for the report, by name: answers topped up, edits that change nothing.
        not_told_apart: Records of older answers that say nothing of what a model answers now.
    """

    records: tuple[EditRecord, ...]
    questions: tuple[int, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    not_told_apart: frozenset[int] = frozenset()


def draw(spec: TrialSpec, source: Source) -> Drawn:
    """The records that a trial edits; the same for every arm of a seed.

    `batch` needs `num_edits` for each of its `num_batches`, `serial` makes `answers_per_question`
    records of each of its `num_questions`. With `group_sizes` so many edits come from each group
    of similar records, in every batch.

    Raises:
        ConfigError: If the data offers too few records, answers, or members of a group, or if there
            is a file of answers for another kind of protocol.
    """
    protocol, seed = spec.protocol, spec.seed
    if source.answers is not None and protocol.kind != "serial":
        raise ConfigError(
            f"dataset.answers is {source.answers.path}; it is for protocol.kind=serial, "
            f"not for protocol.kind={protocol.kind}"
        )
    source, hint = banded(spec.dataset, source), _more(source)
    if protocol.kind == "serial":
        return _serial(protocol, source, seed, hint)
    repeats = protocol.num_repeats
    if protocol.group_sizes:
        records = _from_groups(source, protocol.group_sizes, repeats, seed)
    else:
        records = streams.drawn_records(
            source.records, protocol.num_edits * repeats, seed, hint=hint
        )
    return Drawn(records, tuple(range(len(records))), _source_counts(records, source))


def _serial(protocol: ProtocolSpec, source: Source, seed: int, hint: str) -> Drawn:
    """Questions with their answers: made from the data, or those of a file to what it asks.

    Of a question with more answers than are asked for, the last ones are edited: so the one that
    counts in the end is the same for any number.
    """
    num_questions, key = protocol.num_questions or 0, "protocol.num_questions"
    num_answers, given = protocol.num_rounds, source.answers
    if given is None:
        drawn = streams.drawn_records(source.records, num_questions, seed, key, hint)
        made = serial.serial_records(drawn, source.records, num_answers, seed)
        counts = {"answers_topped_up": made.num_topped_up}
        return Drawn(made.records, made.questions, counts | _source_counts(made.records, source))
    given.check_enough(num_answers)
    answers = {record.record_id: given.of(record) for record in source.records}
    answered = [record for record in source.records if answers[record.record_id]]
    if not answered:
        raise ConfigError(
            f"dataset.answers is {given.path}; none of its {len(given.questions)} questions is "
            f"asked in dataset.part={source.part}"
        )
    hint = f": so many of dataset.part={source.part} are answered in dataset.answers={given.path}"
    drawn = streams.drawn_records(answered, num_questions, seed, key, hint)
    made = serial.answered_records(
        drawn, [(answers[record.record_id] or ())[-num_answers:] for record in drawn]
    )
    last = made.records[-len(drawn) :]
    kept = [record for record, new in zip(drawn, last, strict=True) if record == new]
    counts = {
        "last_answers_of_file": made.num_other_targets,
        "answers_not_told_apart": len(made.not_told_apart),
    }
    counts |= _source_counts(kept, source)
    return Drawn(made.records, made.questions, counts, made.not_told_apart)


def _source_counts(records: Sequence[EditRecord], source: Source) -> dict[str, int]:
    """How many of the drawn edits change nothing, where the data holds such edits; how ranked."""
    counts = dict(source.ranked)
    if source.unchanged:
        counts["unchanged_edits"] = sum(r.record_id in source.unchanged for r in records)
    return counts


def _more(source: Source) -> str:
    """Where more records are than in this part, to end an error's message."""
    if source.knowledge is not None:
        return f": with dataset.known_only=true the backbone knows {source.knowledge}"
    if source.num_in_all_parts <= len({record.prompt for record in source.records}):
        return ""
    return (
        f" in dataset.part={source.part}; dataset.part=all, which has no other part to train on, "
        f"offers {source.num_in_all_parts}"
    )


def banded(dataset: DatasetSpec, source: Source) -> Source:
    """`source` with the records of `dataset.frequency_band` alone; unchanged without a band.

    Before the backbone is loaded nothing is known of records that are ranked by GECE: all stay.

    Raises:
        ConfigError: If band or source of the frequencies do not fit; see `in_band`.
    """
    band, by = dataset.frequency_band, dataset.frequency_source
    if by not in FREQUENCY_SOURCES:
        allowed = " or ".join(FREQUENCY_SOURCES)
        raise ConfigError(f"dataset.frequency_source is {by!r}; it must be {allowed}")
    if band is None:
        return source
    if by == "gece" and any(record.frequency is None for record in source.records):
        return source
    return replace(source, records=in_band(source.records, band))


def _from_groups(
    source: Source, sizes: Sequence[int], repeats: int, seed: int
) -> tuple[EditRecord, ...]:
    """`repeats` draws of so many records from each group, the groups of one draw side by side."""
    labels = similarity_groups(source.records, len(sizes))
    drawn: list[Sequence[EditRecord]] = []
    for group, size in enumerate(sizes):
        members = [r for r, label in zip(source.records, labels, strict=True) if label == group]
        offered = len({record.prompt for record in members})
        if size * repeats > offered:
            raise ConfigError(
                f"protocol.group_sizes is {list(sizes)}; group {group + 1} of the data holds "
                f"{offered} different prompts, and {repeats} batches need {size * repeats}"
            )
        drawn.append(streams.drawn_records(members, size * repeats, seed) if size else ())
    return tuple(
        record
        for number in range(repeats)
        for size, records in zip(sizes, drawn, strict=True)
        for record in records[number * size : (number + 1) * size]
    )
