"""WikiData-counterfact in the form of KnowEdit: statements to complete, with a false completion.

Fields: `subject`, `prompt`, `target_new` (false on purpose), `ground_truth`, and two tables of
questions, each a list of `prompt` and `ground_truth`. Of `portability`, `Subject_Aliasing` (another
name of the subject) is the rephrase, as in the serial-editing paper (ARM, Appendix A), and
`Reasoning` (one hop further, from `target_new`) is portability, left out where the edit is towards
`ground_truth`; `Logical_Generalization` is not read. Of `locality`,
`Relation_Specificity` (another relation of the subject) and `Forgetfulness` (another answer that
was true beside the old one) both stay with the subject: kind `locality_same`. The far questions of
the ARM paper (its Table 7) are not in the files.
"""

from __future__ import annotations

from typing import Any

from trainables.reading.loaded import (
    Fields,
    Loaded,
    Loader,
    Paths,
    UnusableRecordError,
    load_records,
    optional_text_of,
    text_of,
)
from trainables.records import EditRecord, Question

VERSION = 2
TARGET_FIELDS = ("alt", "answers")  # the false completion, as published; the true one
HAS_PASSAGES = False
EXAMPLES = (
    {
        "subject": "person {n}",
        "prompt": "The birthplace of person {n} is",
        "target_new": "Town {n}",
        "ground_truth": "City {n}",
        "portability": {
            "Subject_Aliasing": [
                {"prompt": "The birthplace of number {n} is", "ground_truth": [["Town {n}"]]}
            ],
            "Reasoning": [{"prompt": "The ruler there is", "ground_truth": [["Ivo", "Ivo I"]]}],
        },
        "locality": {
            "Relation_Specificity": [
                {"prompt": "The work of person {n} is", "ground_truth": [["book {n}"]]}
            ],
            "Forgetfulness": [
                {"prompt": "Once the home of person {n} was", "ground_truth": [["Orm"]]}
            ],
        },
    },
)
REPHRASES = "Subject_Aliasing"
LOCALITY = ("Relation_Specificity", "Forgetfulness")
PORTABILITY = ("Reasoning",)


def load(paths: Paths, target_field: str | None = None) -> Loaded:
    """Records of WikiData-counterfact files.

    A record without prompt, target, alias or locality question is left out, so that every score of
    an arm is a mean over the same records. Of a record that is kept, a question whose
    `ground_truth` is empty is left out alone: the files hold some.

    Args:
        paths: JSON list or JSON lines, possibly gzipped.
        target_field: `alt` edits towards `target_new`, `answers` towards `ground_truth`.

    Raises:
        ConfigError: If `target_field` is unknown.
        DataError: If a file is missing, empty or broken, or if no record is usable.
    """
    loader = Loader("wiki_counterfact", VERSION, TARGET_FIELDS, record_of)
    return load_records(paths, loader, target_field)


def record_of(fields: Fields, record_id: str, target_field: str) -> EditRecord:
    """The record of one object.

    Raises:
        UnusableRecordError: If it has to be left out.
    """
    prompt = text_of(fields, "prompt")
    aliases = _questions(fields, "portability", REPHRASES, "generality")
    rephrases = tuple(dict.fromkeys(q.prompt for q in aliases if q.prompt != prompt))
    if not rephrases:
        raise UnusableRecordError(f"portability.{REPHRASES} holds no other prompt")
    locality = tuple(
        question for name in LOCALITY for question in _questions(fields, "locality", name)
    )
    if not locality:
        raise UnusableRecordError(f"locality holds no usable {' or '.join(LOCALITY)}")
    target = text_of(fields, "target_new" if target_field == "alt" else "ground_truth")
    false_one = fields.get("target_new")
    follows = isinstance(false_one, str) and false_one.strip() == target
    return EditRecord(
        record_id=record_id,
        prompt=prompt,
        target_new=target,
        subject=optional_text_of(fields, "subject"),
        rephrases=rephrases,
        locality=locality,
        portability=tuple(
            question
            for name in (PORTABILITY if follows else ())
            for question in _questions(fields, "portability", name, "portability")
        ),
        true_answer=optional_text_of(fields, "ground_truth"),
    )


def _questions(
    fields: Fields, table: str, name: str, kind: str = "locality_same"
) -> tuple[Question, ...]:
    """The questions of one kind that have a prompt and an answer."""
    tables = fields.get(table) or {}
    if not isinstance(tables, dict):
        raise UnusableRecordError(f"{table} is of type {type(tables).__name__}, not an object")
    rows = tables.get(name) or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UnusableRecordError(f"{table}.{name} is not a list of objects")
    found = []
    for row in rows:
        answer = _first_text(row.get("ground_truth"))
        if answer is not None:
            found.append(Question(text_of(row, "prompt"), answer, kind))
    return tuple(found)


def _first_text(value: Any) -> str | None:
    """The first spelling of an answer: a text, or lists of lists of spellings."""
    while isinstance(value, list):
        value = value[0] if value else None
    return optional_text_of({"ground_truth": value}, "ground_truth")
