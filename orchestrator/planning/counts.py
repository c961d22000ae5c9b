"""How many edits a protocol draws, and how they are divided into batches; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.trial_spec import LEFT_OUT
from orchestrator.settings.models import Protocol

FEWEST_ANSWERS = 2
STREAMS = ("lifelong", "serial")
# What stands in a serial trial's protocol, and so in its table: where the answers come from. The
# number is that of trainables/draws/serial.py.
GENERATED_ANSWERS = "generated (version 1; the last is the data set's own)"
GIVEN_ANSWERS = "from a file"
# Keys of one kind of protocol alone, and keys younger than the first results: a protocol that does
# not use them does without, so that its trials keep their names.
_OPTIONAL: Mapping[str, Any] = {
    "num_questions": None,
    "answers_per_question": None,
    "group_sizes": None,
    "order_seed": None,
    "curve": False,
    **LEFT_OUT,
}


def with_counts(protocol: Protocol, *, answers_digest: str | None = None) -> dict[str, Any]:
    """The protocol with every count filled in, without the optional keys that it does not use.

    Args:
        protocol: With the counts that are known.
        answers_digest: Hash of the file that gives the answers of a serial stream, if one does.

    Raises:
        UsageError: If counts contradict each other.
    """
    values = {**protocol.model_dump(), **batches(protocol)}
    if protocol.kind == "serial":
        given = f"{GIVEN_ANSWERS} (sha256 {answers_digest})"
        values["answers"] = GENERATED_ANSWERS if answers_digest is None else given
    else:
        values |= {"num_questions": None, "answers_per_question": None, **LEFT_OUT}
    return {
        key: value
        for key, value in values.items()
        if key not in _OPTIONAL or value != _OPTIONAL[key]
    }


def batches(protocol: Protocol) -> dict[str, int]:
    """Number of edits, edit batch size and number of batches, each from the others if left open.

    Raises:
        UsageError: If they contradict each other.
    """
    if protocol.kind == "serial":
        return _serial(protocol)
    edits, size, count = num_edits(protocol), protocol.edit_batch_size, protocol.num_batches
    if protocol.kind == "batch":
        if size not in (None, edits):
            raise UsageError(
                f"protocol.edit_batch_size={size}: with protocol.kind=batch it is "
                f"protocol.num_edits={edits}; give protocol.num_batches for the batches averaged"
            )
        return {"num_edits": edits, "edit_batch_size": edits, "num_batches": count or 1}
    if protocol.kind == "single":
        if size not in (None, 1) or count not in (None, edits):
            raise UsageError(
                "protocol.kind=single takes one edit at a time: "
                "leave edit_batch_size and num_batches out"
            )
        return {"num_edits": edits, "edit_batch_size": 1, "num_batches": edits}
    if (size or 1) > edits or (count or 1) > edits:
        key = "edit_batch_size" if (size or 1) > edits else "num_batches"
        raise UsageError(
            f"protocol.{key}={size or count}: must lie in 1 to protocol.num_edits={edits}"
        )
    if size is None:
        size = math.ceil(edits / count) if count else 1
    implied = math.ceil(edits / size)
    if protocol.edit_batch_size is not None and count not in (None, implied):
        raise UsageError(
            f"protocol.num_batches={count}: protocol.edit_batch_size={size} "
            f"cuts {edits} edits into {implied}"
        )
    return {"num_edits": edits, "edit_batch_size": size, "num_batches": implied}


def num_edits(protocol: Protocol) -> int:
    """Edits of one batch (`batch`), else of the trial.

    Raises:
        UsageError: If what they should follow from is missing or out of range.
    """
    if protocol.kind == "serial":
        questions, answers = protocol.num_questions, protocol.answers_per_question
        if questions is None or answers is None:
            missing = "num_questions" if questions is None else "answers_per_question"
            raise UsageError(
                f"protocol.{missing} is missing: protocol.kind=serial needs "
                "protocol.num_questions and protocol.answers_per_question"
            )
        if answers < FEWEST_ANSWERS:
            raise UsageError(
                f"protocol.answers_per_question={answers}: must be at least {FEWEST_ANSWERS}; "
                "with one answer per question use protocol.kind=lifelong"
            )
        return questions * answers
    if protocol.group_sizes is not None:
        if not sum(protocol.group_sizes):
            raise UsageError(f"protocol.group_sizes={protocol.group_sizes}: no edit is left")
        return sum(protocol.group_sizes)
    return protocol.num_edits


def num_drawn(protocol: Mapping[str, Any]) -> int:
    """Records that a trial draws from the data set."""
    if protocol["kind"] == "serial":
        return int(protocol["num_questions"])
    rolled_back = protocol["num_batches"] if protocol["kind"] == "batch" else 1
    return int(protocol["num_edits"] * rolled_back)


def counts_within(protocol: Mapping[str, Any], limit: int) -> dict[str, int]:
    """The protocol's counts, reduced to `limit` records; a stream keeps its number of batches."""
    if protocol["kind"] == "serial":
        questions, rounds = min(int(protocol["num_questions"]), limit), _rounds(protocol)
        size = min(int(protocol["edit_batch_size"]), questions)
        return {
            "num_questions": questions,
            "num_edits": questions * rounds,
            "edit_batch_size": size,
            "num_batches": math.ceil(questions / size) * rounds,
        }
    edits = min(int(protocol["num_edits"]), limit)
    if protocol["kind"] == "batch":
        return {"num_edits": edits, "edit_batch_size": edits, "num_batches": max(1, limit // edits)}
    batches = min(int(protocol["num_batches"]), edits)
    size = math.ceil(edits / batches) if protocol["edit_batch_size"] > 1 else 1
    return {"num_edits": edits, "edit_batch_size": size, "num_batches": math.ceil(edits / size)}


def limit_of(dataset: Mapping[str, Any]) -> int | None:
    """Number of records in the chosen part of the data set; None if its YAML does not say."""
    limit = dataset.get("max_edits")
    if isinstance(limit, dict):
        part = dataset.get("part", "report")
        limit = sum(limit.values()) if part == "all" else limit.get(part)
    return None if limit is None else int(limit)


def _serial(protocol: Protocol) -> dict[str, int]:
    """Counts of a serial stream, no batch of which holds two answers of one question."""
    edits, questions = num_edits(protocol), protocol.num_questions
    assert questions is not None
    size = protocol.edit_batch_size or 1
    if size > questions:
        raise UsageError(
            f"protocol.edit_batch_size={size}: must lie in 1 to protocol.num_questions={questions}"
        )
    if protocol.group_sizes is not None:
        raise UsageError("protocol.group_sizes: not for protocol.kind=serial")
    if protocol.order not in (None, "given", "random"):
        raise UsageError(
            f"protocol.order={protocol.order}: with protocol.kind=serial it is given or random, "
            "as every round comes after the one before"
        )
    if (protocol.order, protocol.update_order) == ("random", "random"):
        raise UsageError(
            "protocol.order=random: protocol.update_order=random shuffles all updates already"
        )
    count = math.ceil(questions / size) * (edits // questions)
    if protocol.num_batches not in (None, count):
        raise UsageError(
            f"protocol.num_batches={protocol.num_batches}: with protocol.kind=serial it follows "
            f"from the questions, answers and protocol.edit_batch_size: {count}"
        )
    return {"num_edits": edits, "edit_batch_size": size, "num_batches": count}


def _rounds(protocol: Mapping[str, Any]) -> int:
    return int(protocol["answers_per_question"])
