"""A data file read into edit records, with every record that was left out and why.

Two layouts are read, plain or gzipped: one JSON list of objects, or JSON lines. Nothing in a file
is ever used as a path. Each loader hands its own `parse` to `load_records`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from trainables.errors import ConfigError, DataError
from trainables.records import EditRecord

TargetField = Literal["alt", "answers"]
Fields: TypeAlias = Mapping[str, Any]

GZIP_MAGIC = b"\x1f\x8b"
JSON_BLANKS = " \t\r\n"


class UnusableRecordError(ValueError):
    """One record cannot be used; the message is the reason, and the rest of the file goes on."""


@dataclass(frozen=True)
class Excluded:
    """A record that no arm sees."""

    file: str
    line: int  # see Loaded.lines
    reason: str


@dataclass(frozen=True)
class Loaded:
    """The usable records of one file, in its order.

    Attributes:
        records: At least one; every text is stripped of outer blanks.
        excluded: Records left out for every arm, in the file's order.
        num_subject_missing: Kept records whose subject is unknown or not inside the prompt;
            methods that need the subject use the last prompt token there.
        digest: SHA-256 over the file's bytes, the loader, its version and the target field.
        lines: For each record its line, counted from 1; in a JSON list its position, from 1.
    """

    records: tuple[EditRecord, ...]
    excluded: tuple[Excluded, ...]
    num_subject_missing: int
    digest: str
    lines: tuple[int, ...]


def load_records(
    path: Path,
    *,
    dataset: str,
    version: int,
    target_field: TargetField,
    parse: Callable[[Fields, str], EditRecord],
) -> Loaded:
    """All records of `path` that `parse` accepts; `<dataset>-<line>` is the id of each.

    Args:
        path: JSON list or JSON lines, UTF-8, possibly gzipped (told by content, not by name).
        dataset: Name of the loader, part of record ids and of the digest.
        version: Raised when a change of the loader moves a number.
        target_field: Which answer becomes the target.
        parse: Makes a record of one object; raises `UnusableRecordError` to leave it out.

    Raises:
        ConfigError: If `target_field` is unknown.
        DataError: If the file is missing, empty or broken, or if no record is usable.
    """
    if target_field not in get_args(TargetField):
        allowed = " or ".join(get_args(TargetField))
        raise ConfigError(f"dataset.target_field is {target_field!r}; it must be {allowed}")
    data = _read(path)
    records: list[EditRecord] = []
    lines: list[int] = []
    excluded: list[Excluded] = []
    for line, fields in _objects(path, _text_of(path, data)):
        try:
            if not isinstance(fields, dict):
                raise UnusableRecordError("not a JSON object")
            records.append(parse(fields, f"{dataset}-{line}"))
            lines.append(line)
        except UnusableRecordError as reason:
            excluded.append(Excluded(str(path), line, str(reason)))
    if not records:
        if not excluded:
            raise DataError(f"dataset.path is {path}: the file holds no records")
        raise DataError(
            f"dataset.path is {path}: none of its {len(excluded)} records is usable as {dataset} "
            f"with target field {target_field!r}; line {excluded[0].line}: {excluded[0].reason}"
        )
    content = hashlib.sha256(data).hexdigest()
    identity = json.dumps([dataset, version, target_field, content])
    return Loaded(
        records=tuple(records),
        excluded=tuple(excluded),
        num_subject_missing=sum(not _has_subject(record) for record in records),
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        lines=tuple(lines),
    )


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


def _has_subject(record: EditRecord) -> bool:
    return record.subject is not None and record.subject in record.prompt


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"dataset.path is {path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"dataset.path is {path}: {error.strerror or error}") from error
    if not data:
        raise DataError(f"dataset.path is {path}: the file is empty")
    return data


def _text_of(path: Path, data: bytes) -> str:
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"dataset.path is {path}: broken gzip file ({error})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object: the decoder has dropped a byte order mark, so positions count from there.
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"dataset.path is {path}, line {line}: not UTF-8 text") from error


def _objects(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Line or list position, and value, of every record."""
    if text.lstrip(JSON_BLANKS).startswith("["):
        yield from enumerate(_parse(path, text, first_line=1), start=1)
        return
    # Not splitlines(): it also cuts at U+2028 and its kin, which JSON allows inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(JSON_BLANKS):
            yield number, _parse(path, line, first_line=number)


def _parse(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        message = f"dataset.path is {path}, line {line}: not valid JSON ({error.msg})"
        raise DataError(message) from error
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, or lists nested thousands deep: no data set has these.
        message = f"dataset.path is {path}, line {first_line}: not usable JSON ({error})"
        raise DataError(message) from error
