"""Reads and writes files of answers: what each question of a serial stream is answered in turn.

One JSON object a line, `search_spaces/README.md` shows the form: `prompt` and, where it has one,
`subject` say whose question it is; `answers` come in the order of their editing, so that the last
one is what counts in the end (ARM, Eq. 1).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainables.errors import ConfigError, DataError
from trainables.reading.json_files import objects, read_bytes
from trainables.reading.loaded import UnusableRecordError, optional_text_of, text_of
from trainables.records import EditRecord

KEY = "dataset.answers"
FIELDS = ("prompt", "subject", "answers")


@dataclass(frozen=True)
class AnsweredQuestion:
    """One line of a file; without a subject the prompt alone says whose question it is."""

    line: int
    prompt: str
    subject: str | None
    answers: tuple[str, ...]

    def is_of(self, prompt: str, subject: str | None) -> bool:
        """Whether this may be the question of that prompt about that subject."""
        return self.prompt == prompt and (
            None in (self.subject, subject) or self.subject == subject
        )


@dataclass(frozen=True)
class Answers:
    """The questions of one file, at least one, and no two of them the same.

    Attributes:
        path: Of the file.
        questions: In their order.
        digest: SHA-256 of the file's bytes.
    """

    path: Path
    questions: tuple[AnsweredQuestion, ...]
    digest: str

    @cached_property
    def _by_prompt(self) -> Mapping[str, Sequence[AnsweredQuestion]]:
        return _by_prompt(self.questions)

    def of(self, record: EditRecord) -> tuple[str, ...] | None:
        """The answers to the question of `record`; None where the file has none."""
        found = self._by_prompt.get(record.prompt, ())
        return next((q.answers for q in found if q.is_of(record.prompt, record.subject)), None)

    def check_known(self, records: Iterable[EditRecord], dataset: str) -> None:
        """Raises DataError for a question that none of the records, of all parts, asks."""
        subjects: Mapping[str, set[str | None]] = defaultdict(set)
        for record in records:
            subjects[record.prompt].add(record.subject)
        for question in self.questions:
            asked = subjects.get(question.prompt, set())
            if not any(question.is_of(question.prompt, subject) for subject in asked):
                about = "" if question.subject is None else f" about {question.subject!r}"
                others = sorted(subject for subject in asked if subject is not None)
                hint = f"; there it is about {others[0]!r}" if others else ""
                raise DataError(
                    f"{_line(self.path, question.line)}: no record of dataset={dataset} asks "
                    f"{question.prompt!r}{about}{hint}"
                )

    def check_enough(self, num_answers: int) -> None:
        """Raises ConfigError for a question with fewer answers."""
        for question in self.questions:
            if len(question.answers) < num_answers:
                raise ConfigError(
                    f"protocol.answers_per_question is {num_answers}; "
                    f"{_line(self.path, question.line)}: {question.prompt!r} has "
                    f"{len(question.answers)}"
                )


def read_answers(path: Path) -> Answers:
    """The questions of a file with their answers.

    Args:
        path: JSON lines or a JSON list, UTF-8, possibly gzipped.

    Raises:
        DataError: If it is missing, empty or broken, has other keys, asks a question twice, or if
            an answer is empty or equal, but for letter case, to the one before it.
    """
    data = read_bytes(path, KEY)
    questions: list[AnsweredQuestion] = []
    for line, fields in objects(path, data, KEY):
        try:
            questions.append(_question(fields, line))
        except UnusableRecordError as reason:
            raise DataError(f"{_line(path, line)}: {reason}") from None
    if not questions:
        raise DataError(f"{KEY} is {path}: the file holds no questions")
    for same in _by_prompt(questions).values():
        for number, question in enumerate(same):
            for earlier in same[:number]:
                if question.is_of(earlier.prompt, earlier.subject):
                    raise DataError(
                        f"{_line(path, question.line)}: asks {question.prompt!r}, as line "
                        f"{earlier.line} does"
                    )
    return Answers(path, tuple(questions), hashlib.sha256(data).hexdigest())


def answer_lines(asked: Iterable[tuple[EditRecord, Sequence[str]]]) -> Iterator[str]:
    """The lines of a file that `read_answers` reads: of each record its question and answers."""
    for record, answers in asked:
        fields = {"prompt": record.prompt, "subject": record.subject, "answers": list(answers)}
        told = {key: value for key, value in fields.items() if value is not None}
        yield json.dumps(told, ensure_ascii=False) + "\n"


def _question(fields: Any, line: int) -> AnsweredQuestion:
    if not isinstance(fields, dict):
        raise UnusableRecordError("not a JSON object")
    for key in fields:
        if key not in FIELDS:
            raise UnusableRecordError(f"{key!r} is no key; keys are {', '.join(FIELDS)}")
    return AnsweredQuestion(
        line, text_of(fields, "prompt"), optional_text_of(fields, "subject"), _answers(fields)
    )


def _answers(fields: Mapping[str, Any]) -> tuple[str, ...]:
    listed = fields.get("answers")
    if not isinstance(listed, list) or not listed:
        said = "missing" if listed is None else f"{listed!r}"
        raise UnusableRecordError(f"answers is {said}; it must be a list of texts")
    texts = {f"answer {number}": text for number, text in enumerate(listed, start=1)}
    answers = [text_of(texts, name) for name in texts]
    for number, (one, other) in enumerate(pairwise(answers), start=1):
        if one.casefold() == other.casefold():
            raise UnusableRecordError(
                f"answers {number} and {number + 1} are the same, {other!r}: nothing changes"
            )
    return tuple(answers)


def _by_prompt(questions: Collection[AnsweredQuestion]) -> Mapping[str, Sequence[AnsweredQuestion]]:
    found: dict[str, list[AnsweredQuestion]] = {}
    for question in questions:
        found.setdefault(question.prompt, []).append(question)
    return found


def _line(path: Path, line: int) -> str:
    return f"{KEY} is {path}, line {line}"
