"""SelfCheckGPT passages in the form of WISE: the next sentence of a biography, corrected.

Fields: `prompt` (the passage so far), `target_new` (its right next sentence), `subject`,
`locality_prompt` and `locality_ground_truth` (web text, cut in two). There is no rephrase. LEMoE
(arXiv:2406.20030v1, Table 1) scores perplexity and locality.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainables.reading.loaded import (
    Fields,
    Loaded,
    Loader,
    Paths,
    load_records,
    optional_text_of,
    text_of,
)
from trainables.records import EditRecord, Question

VERSION = 1
TARGET_FIELDS = ("alt",)
MADE_UP_LEAD = 2  # sentences of a made-up passage before the one that is edited


def load(paths: Paths, target_field: str | None = None) -> Loaded:
    """Records of hallucination files, locality texts being of kind `locality_far`.

    A record without prompt, target or one half of its locality text is left out, so that every
    score of an arm is a mean over the same records.

    Args:
        paths: JSON list or JSON lines, possibly gzipped.
        target_field: `alt`, the only one: the files hold no other answer.

    Raises:
        ConfigError: If `target_field` is not `alt`.
        DataError: If a file is missing, empty or broken, or if no record is usable.
    """
    loader = Loader("hallucination", VERSION, TARGET_FIELDS, _record, has_templates=False)
    return load_records(paths, loader, target_field)


def made_up_passages(records: Iterable[EditRecord]) -> tuple[EditRecord, ...]:
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
    passages = []
    for subject, own in by_subject.items():
        if len(own) <= MADE_UP_LEAD:
            continue
        lead, last = own[:MADE_UP_LEAD], own[MADE_UP_LEAD]
        far = tuple(question for question in last.locality if question.kind == "locality_far")
        if far:
            sentences = [f"{record.prompt} {record.true_answer}." for record in lead]
            passages.append(
                EditRecord(
                    record_id=f"passage/{last.record_id}",
                    prompt=" ".join((f"This is a passage about {subject}.", *sentences)),
                    target_new=f"{last.prompt} {last.target_new}.",
                    subject=subject,
                    locality=far,
                )
            )
    return tuple(passages)


def _record(fields: Fields, record_id: str, _: str) -> EditRecord:
    locality = Question(
        text_of(fields, "locality_prompt"), text_of(fields, "locality_ground_truth"), "locality_far"
    )
    return EditRecord(
        record_id=record_id,
        prompt=text_of(fields, "prompt"),
        target_new=text_of(fields, "target_new"),
        subject=optional_text_of(fields, "subject"),
        locality=(locality,),
    )
