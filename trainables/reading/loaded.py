"""Reads a data set into edit records, and tells which records were left out and why.

Each loader hands its own `parse` to `load_records`; what all data sets have in common is done here:
several files, records that change nothing, prompts that are templates.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from trainables.errors import ConfigError, DataError
from trainables.reading.json_files import objects, read_bytes
from trainables.records import EditRecord, Question

Fields: TypeAlias = Mapping[str, Any]
Paths: TypeAlias = Path | Sequence[Path]

PLACE = re.compile(r"\{\}|\{subject\}|\[X\]")  # of a subject, in a prompt that is a template


class UnusableRecordError(ValueError):
    """One record cannot be used; the message is the reason, and the rest of the file goes on."""


@dataclass(frozen=True)
class Excluded:
    """A record that no arm sees."""

    file: str
    line: int  # of that file; in a JSON list the position
    reason: str


@dataclass(frozen=True)
class Loaded:
    """The usable records of one file, or of several one after another, in their order.

    Attributes:
        records: At least one; every text is stripped of outer blanks.
        excluded: Records left out for every arm.
        num_subject_missing: Kept records whose subject is unknown or not inside the prompt;
            methods that need the subject use the last prompt token there.
        digest: SHA-256 over the files' bytes, the loader, its version and what chose the records.
        lines: For each record its line, counted from 1 on through all files; in a JSON list its
            position.
        unchanged: Records by id whose target is an answer that was true before, as they would
            be left out.
        num_repeated: Records that ask what a file before theirs asks too.
    """

    records: tuple[EditRecord, ...]
    excluded: tuple[Excluded, ...]
    num_subject_missing: int
    digest: str
    lines: tuple[int, ...]
    unchanged: Mapping[str, Excluded] = field(default_factory=dict)
    num_repeated: int = 0

    def without_unchanged(self) -> Loaded:
        """Without the records whose edit changes nothing; `self` where there are none.

        Raises:
            DataError: If no record is left.
        """
        if not self.unchanged:
            return self
        rows = list(zip(self.records, self.lines, strict=True))
        kept = [(record, line) for record, line in rows if record.record_id not in self.unchanged]
        if not kept:
            raise DataError(
                f"dataset.keep_unchanged is false, and none of the {len(rows)} edits changes an "
                "answer: every target was true before"
            )
        excluded = (*self.excluded, *self.unchanged.values())
        return replace(
            self,
            records=tuple(record for record, _ in kept),
            lines=tuple(line for _, line in kept),
            excluded=excluded,
            num_subject_missing=sum(not has_subject(record) for record, _ in kept),
            digest=hashlib.sha256(f"{self.digest} without unchanged".encode()).hexdigest(),
        )


@dataclass(frozen=True)
class Loader:
    """How the objects of a data set become records.

    Attributes:
        dataset: Name of the data set, part of record ids and of the digest.
        version: Raised when a change of the loader moves a number.
        target_fields: Where the new answer may stand, the published field first.
        parse: Makes a record of one object, its id and the target field; raises
            `UnusableRecordError` to leave it out.
        truths: Answers that were true before the edit, beside the record's own.
        has_templates: Whether a prompt may hold a place for its subject; running text may hold
            braces of its own.
    """

    dataset: str
    version: int
    target_fields: tuple[str, ...]
    parse: Callable[[Fields, str, str], EditRecord]
    truths: Callable[[Fields], Collection[str]] = lambda fields: ()
    has_templates: bool = True

    def check_target_field(self, typed: str) -> None:
        """Raises ConfigError for a target field that the data set does not have."""
        check_target_field(self.dataset, typed, self.target_fields)


def check_target_field(dataset: str, typed: str, known: Sequence[str]) -> None:
    """Make sure that the new answer of `dataset` may stand in the field `typed`.

    Raises:
        ConfigError: If it may not.
    """
    if typed not in known:
        allowed = " or ".join(known) + (" alone" if len(known) == 1 else "")
        raise ConfigError(f"dataset.target_field is {typed!r}; dataset={dataset} has {allowed}")


def load_records(paths: Paths, loader: Loader, target_field: str | None = None) -> Loaded:
    """All records that `loader` accepts, of one file or of several in their order.

    `<dataset>-<line>` is the id of each; of the second file on `<dataset>-<file>:<line>`, where
    that line has a record in a file before. (The file by its number: whatever changes an id
    changes a draw, and files may be renamed.)

    Args:
        paths: JSON list or JSON lines, UTF-8, possibly gzipped (told by content, not by name).
        loader: How an object becomes a record.
        target_field: Which answer becomes the target; None: the published one.

    Raises:
        ConfigError: If `target_field` is unknown.
        DataError: If a file is missing, empty or broken, or if no record is usable.
    """
    if target_field is None:
        target_field = loader.target_fields[0]
    loader.check_target_field(target_field)
    files = [paths] if isinstance(paths, Path) else list(paths)
    reading = _Reading(loader, target_field)
    for path in files:
        reading.read(path)
    return reading.loaded(files)


class _Reading:
    """Records as they come, file after file."""

    def __init__(self, loader: Loader, target_field: str) -> None:
        self._loader, self._target_field = loader, target_field
        self._records: dict[str, EditRecord] = {}
        self._lines: list[int] = []
        self._excluded: list[Excluded] = []
        self._unchanged: dict[str, Excluded] = {}
        self._asked: set[str] = set()  # prompts of the files before
        self._contents: list[str] = []
        self._num_lines = self._num_repeated = self._num_templates = 0

    def read(self, path: Path) -> None:
        """Add the records of one more file."""
        data = read_bytes(path)
        self._contents.append(hashlib.sha256(data).hexdigest())
        line, new = 0, []
        for line, fields in objects(path, data):
            try:
                new.append(self._record(fields, path, line))
                self._lines.append(self._num_lines + line)
            except UnusableRecordError as reason:
                self._excluded.append(Excluded(str(path), line, str(reason)))
        if not line:
            raise DataError(f"dataset.path is {path}: the file holds no records")
        self._num_lines += line
        self._num_repeated += sum(record.prompt in self._asked for record in new)
        self._asked.update(record.prompt for record in new)

    def loaded(self, files: Sequence[Path]) -> Loaded:
        """What was read of `files`.

        Raises:
            DataError: If no record is usable.
        """
        loader, named = self._loader, ", ".join(map(str, files))
        if not self._records:
            first = self._excluded[0]
            raise DataError(
                f"dataset.path is {named}: none of its {len(self._excluded)} records is usable as "
                f"{loader.dataset} with target field {self._target_field!r}; "
                f"line {first.line}: {first.reason}"
            )
        # The published field has borne the name of ZsRE's since the first results.
        published = "alt" if self._target_field == loader.target_fields[0] else self._target_field
        identity: list[Any] = [loader.dataset, loader.version, published, *self._contents]
        if self._num_templates:
            identity.append("templates filled")
        return Loaded(
            records=tuple(self._records.values()),
            excluded=tuple(self._excluded),
            num_subject_missing=sum(not has_subject(r) for r in self._records.values()),
            digest=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
            lines=tuple(self._lines),
            unchanged=self._unchanged,
            num_repeated=self._num_repeated,
        )

    def _record(self, fields: Any, path: Path, line: int) -> EditRecord:
        loader = self._loader
        if not isinstance(fields, dict):
            raise UnusableRecordError("not a JSON object")
        record_id = f"{loader.dataset}-{line}"
        if record_id in self._records:
            record_id = f"{loader.dataset}-{len(self._contents)}:{line}"
        record = loader.parse(fields, record_id, self._target_field)
        if loader.has_templates:
            whole = filled(record)
            self._num_templates += whole != record
            record = whole
        # An edit towards the truth is asked for by its field; it teaches what the model lacks.
        if self._target_field == loader.target_fields[0]:
            truths = {record.true_answer, *loader.truths(fields)}
            if record.target_new in truths:
                reason = f"its target {record.target_new!r} was true before: nothing changes"
                self._unchanged[record_id] = Excluded(str(path), line, reason)
        self._records[record_id] = record
        return record


def filled(record: EditRecord) -> EditRecord:
    """`record` with its subject wherever a prompt of its own leaves a place for one.

    Raises:
        UnusableRecordError: If there is no subject to put there, or if a locality prompt, which
            asks about another subject, has such a place.
    """
    subject = record.subject

    def whole(text: str) -> str:
        if not PLACE.search(text):
            return text
        if subject is None:
            raise UnusableRecordError(f"{text!r} is a template, and there is no subject to fill in")
        return PLACE.sub(lambda _: subject, text)

    for question in record.locality:
        if PLACE.search(question.prompt):
            raise UnusableRecordError(
                f"locality prompt {question.prompt!r} is an unfilled template"
            )
    return replace(
        record,
        prompt=whole(record.prompt),
        rephrases=tuple(whole(text) for text in record.rephrases),
        portability=tuple(
            Question(whole(question.prompt), question.answer, question.kind)
            for question in record.portability
        ),
    )


def has_subject(record: EditRecord) -> bool:
    """Whether the record's prompt holds its subject."""
    return record.subject is not None and record.subject in record.prompt


def text_of(fields: Fields, key: str) -> str:
    """The stripped text under `key`.

    Raises:
        UnusableRecordError: If it is missing, not text, empty, or not valid Unicode.
    """
    if key not in fields:
        raise UnusableRecordError(f"{key} is missing")
    return _checked(fields[key], key)


def optional_text_of(fields: Fields, key: str) -> str | None:
    """The stripped text under `key`, or None where the record has none."""
    value = fields.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return _checked(value, key)


def texts_of(fields: Fields, key: str) -> tuple[str, ...]:
    """The stripped texts under `key`, which may hold one text or a list of them; at least one.

    Raises:
        UnusableRecordError: As `text_of`, also for an empty list.
    """
    value = fields.get(key)
    if not isinstance(value, list):
        return (text_of(fields, key),)
    if not value:
        raise UnusableRecordError(f"{key} is empty")
    return tuple(_checked(item, key) for item in value)


def _checked(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise UnusableRecordError(f"{key} is of type {type(value).__name__}, not text")
    text = value.strip()
    if not text:
        raise UnusableRecordError(f"{key} is empty")
    # JSON can spell half a surrogate pair; tokenizers and hashes fail on it much later.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableRecordError(f"{key} is not valid Unicode") from None
    return text
