"""ZsRE in the form of MEND: zero-shot relation extraction questions with a counterfactual answer.

Fields: `subject`, `src` (edit question), `rephrase`, `alt` (counterfactual answer), `answers`
(true ones), `loc` and `loc_ans` (a Natural Questions question, mostly behind a marker, and its
answer) and, in some files, `portability` (a one-hop question). MEMoE, LEMoE and WISE edit towards
`alt`; loaders of the ROME family edit towards `answers[0]`.
"""

from __future__ import annotations

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

VERSION = 2
TARGET_FIELDS = ("alt", "answers")  # as published; the first true answer
HAS_PASSAGES = False
EXAMPLES = (
    {
        "subject": "person {n}",
        "src": "Where was person {n} born?",
        "rephrase": "What is the birthplace of person {n}?",
        "alt": "Town {n}",
        "answers": ["City {n}"],
        "loc": "nq question: who wrote book {n}",
        "loc_ans": "Ada",
        "portability": {
            "New Question": "Who rules where person {n} was born?",
            "New Answer": "Ivo",
        },
    },
)
LOCALITY_MARKER = "nq question: "


def load(paths: Paths, target_field: str | None = None) -> Loaded:
    """Records of ZsRE files, locality questions being of kind `locality_far`.

    A record without question, target, rephrase or locality question is left out, so that every
    score of an arm is a mean over the same records.

    Args:
        paths: JSON list or JSON lines, possibly gzipped.
        target_field: `alt` or `answers` (its first; no portability question follows from it).

    Raises:
        ConfigError: If `target_field` is unknown.
        DataError: If a file is missing, empty or broken, or if no record is usable.
    """
    return load_records(
        paths, Loader("zsre", VERSION, TARGET_FIELDS, _record, _truths), target_field
    )


def _record(fields: Fields, record_id: str, target_field: str) -> EditRecord:
    true_answer = _first_answer(fields)
    target = text_of(fields, "alt") if target_field == "alt" else true_answer
    if target is None:
        raise UnusableRecordError("answers is missing or empty")
    return EditRecord(
        record_id=record_id,
        prompt=text_of(fields, "src"),
        target_new=target,
        subject=optional_text_of(fields, "subject"),
        rephrases=texts_of(fields, "rephrase"),
        locality=(_locality(fields),),
        portability=_portability(fields) if _is_counterfactual(fields, target) else (),
        true_answer=true_answer,
    )


def _truths(fields: Fields) -> set[str]:
    """All of `answers`: a target that equals any of them changes nothing."""
    answers = fields.get("answers")
    listed = answers if isinstance(answers, list) else [answers]
    return {answer.strip() for answer in listed if isinstance(answer, str)}


def _first_answer(fields: Fields) -> str | None:
    """The first of `answers`, a list or one text; the others are spellings that are not used."""
    answers = fields.get("answers")
    first = answers[0] if isinstance(answers, list) and answers else answers or None
    return optional_text_of({"answers": first}, "answers")


def _locality(fields: Fields) -> Question:
    question = text_of(fields, "loc").removeprefix(LOCALITY_MARKER.strip()).strip()
    if not question:
        raise UnusableRecordError("loc is empty behind its marker")
    return Question(question, text_of(fields, "loc_ans"), "locality_far")


def _is_counterfactual(fields: Fields, target: str) -> bool:
    """Whether the edit is the one that the portability question follows from."""
    alt = fields.get("alt")
    return isinstance(alt, str) and alt.strip() == target


def _portability(fields: Fields) -> tuple[Question, ...]:
    one_hop = fields.get("portability")
    if not one_hop:
        return ()
    if not isinstance(one_hop, dict):
        raise UnusableRecordError("portability is not a JSON object")
    question, answer = text_of(one_hop, "New Question"), text_of(one_hop, "New Answer")
    return (Question(question, answer, "portability"),)
