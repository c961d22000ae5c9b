"""CounterFact: statements to complete, with a false completion; in the forms that are published.

The form of a record is recognised by its fields:

- flat (EasyEdit): `prompt` (subject filled in), `target_new`, `subject`, `ground_truth`,
  `rephrase_prompt` (one or several), `locality_prompt` and `locality_ground_truth`.
- flat with lists: the same, and `locality`, a list of `prompt` and `ground_truth`.
- nested (ROME's counterfact, MEMIT's multi_counterfact): `requested_rewrite` with `prompt` (a
  template), `subject`, `target_new` and `target_true` (each with its text under `str`),
  `paraphrase_prompts` and `neighborhood_prompts`. A list of one rewrite is read too.
- KnowEdit: `locality` and `portability` as tables of questions, as in `wiki_counterfact`.

A locality prompt asks about another subject that has the true answer (in KnowEdit's form: about the
same subject). Where a file does not repeat that answer, it is the record's own true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainables.datasets import wiki_counterfact
from trainables.reading.loaded import (
    Fields,
    Loaded,
    Loader,
    Paths,
    UnusableRecordError,
    load_records,
    optional_text_of,
    text_of,
    texts_of,
)
from trainables.records import EditRecord, Question

VERSION = 1
TARGET_FIELDS = ("target_new",)
HAS_PASSAGES = False
_FLAT = {
    "prompt": "The birthplace of person {n} is",
    "target_new": "Town {n}",
    "subject": "person {n}",
    "ground_truth": "City {n}",
    "rephrase_prompt": "Born was person {n} in",
}
EXAMPLES = (
    {
        **_FLAT,
        "locality_prompt": "The birthplace of Ivo {n} is",
        "locality_ground_truth": "City {n}",
    },
    {**_FLAT, "locality": [{"prompt": "The birthplace of Ivo {n} is", "ground_truth": "Orm"}]},
    {
        "requested_rewrite": {
            "prompt": "The birthplace of {} is",
            "subject": "person {n}",
            "target_new": {"str": "Town {n}"},
            "target_true": {"str": "City {n}"},
            "relation_id": "P19",
        },
        "paraphrase_prompts": ["Born was person {n} in", "The first home of person {n} was"],
        "neighborhood_prompts": ["The birthplace of Ivo {n} is"],
    },
    *wiki_counterfact.EXAMPLES,
)


def load(paths: Paths, target_field: str | None = None) -> Loaded:
    """Records of CounterFact files, locality questions being of kind `locality_near`.

    A record without prompt, target, rephrase or locality prompt is left out, so that every score
    of an arm is a mean over the same records.

    Args:
        paths: JSON list or JSON lines, possibly gzipped.
        target_field: `target_new`, the only one.

    Raises:
        ConfigError: If `target_field` is another.
        DataError: If a file is missing, empty or broken, or if no record is usable.
    """
    return load_records(paths, Loader("counterfact", VERSION, TARGET_FIELDS, _record), target_field)


def _record(fields: Fields, record_id: str, _: str) -> EditRecord:
    """The record of one object, whatever its form."""
    if "requested_rewrite" in fields:
        return _nested(fields, record_id)
    locality = fields.get("locality")
    if isinstance(locality, dict):
        return _tables(fields, record_id)
    if "locality_prompt" in fields:
        near: tuple[Question, ...] = (
            Question(
                text_of(fields, "locality_prompt"),
                text_of(fields, "locality_ground_truth"),
                "locality_near",
            ),
        )
    elif isinstance(locality, list):
        near = _near("locality", locality, optional_text_of(fields, "ground_truth"))
    else:
        raise UnusableRecordError(
            "none of the forms of CounterFact: locality_prompt is missing, and so are "
            f"requested_rewrite and locality; it has {', '.join(fields) or 'no fields'}"
        )
    return _flat(fields, record_id, texts_of(fields, "rephrase_prompt"), near)


def _flat(
    fields: Fields, record_id: str, rephrases: tuple[str, ...], locality: tuple[Question, ...]
) -> EditRecord:
    return EditRecord(
        record_id=record_id,
        prompt=text_of(fields, "prompt"),
        target_new=text_of(fields, "target_new"),
        subject=optional_text_of(fields, "subject"),
        rephrases=rephrases,
        locality=locality,
        true_answer=optional_text_of(fields, "ground_truth"),
    )


def _nested(fields: Fields, record_id: str) -> EditRecord:
    """A record in the form of ROME and MEMIT; `filled` puts the subject into its template."""
    rewrite = fields["requested_rewrite"]
    if isinstance(rewrite, list) and len(rewrite) == 1:
        rewrite = rewrite[0]
    if not isinstance(rewrite, dict):
        held = f"{len(rewrite)} rewrites" if isinstance(rewrite, list) else "no object"
        raise UnusableRecordError(f"requested_rewrite holds {held}; a record changes one fact")
    true_answer = _text(rewrite, "target_true", is_optional=True)
    return EditRecord(
        record_id=record_id,
        prompt=text_of(rewrite, "prompt"),
        target_new=str(_text(rewrite, "target_new")),
        subject=optional_text_of(rewrite, "subject"),
        rephrases=texts_of(fields, "paraphrase_prompts"),
        locality=_near("neighborhood_prompts", fields.get("neighborhood_prompts"), true_answer),
        true_answer=true_answer,
        relation=optional_text_of(rewrite, "relation_id"),
    )


def _text(rewrite: Fields, key: str, *, is_optional: bool = False) -> str | None:
    """A target: its text, or an object that holds it under `str`."""
    value = rewrite.get(key)
    held = {key: value.get("str") if isinstance(value, dict) else value}
    return optional_text_of(held, key) if is_optional else text_of(held, key)


def _tables(fields: Fields, record_id: str) -> EditRecord:
    """A record in KnowEdit's form; its own rephrase stands before the subject's other names."""
    if fields.get("rephrase_prompt"):
        shown = {**fields, "portability": _with_rephrases(fields)}
        return wiki_counterfact.record_of(shown, record_id, "alt")
    return wiki_counterfact.record_of(fields, record_id, "alt")


def _with_rephrases(fields: Fields) -> dict[str, Any]:
    rows = [{"prompt": text, "ground_truth": "-"} for text in texts_of(fields, "rephrase_prompt")]
    tables = fields.get("portability")
    return {**(tables if isinstance(tables, dict) else {}), wiki_counterfact.REPHRASES: rows}


def _near(key: str, rows: Any, true_answer: str | None) -> tuple[Question, ...]:
    """Questions near the edit: texts, or objects with a `prompt` and maybe the answer."""
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise UnusableRecordError(f"{key} is missing or empty")
    found = []
    for row in rows:
        shown = row if isinstance(row, dict) else {"prompt": row}
        answer = optional_text_of(shown, "ground_truth") or optional_text_of(shown, "target")
        answer = answer or true_answer
        if answer is None:
            raise UnusableRecordError(f"{key} has no answer, and there is no true one")
        found.append(Question(text_of(shown, "prompt"), answer, "locality_near"))
    return tuple(found)
