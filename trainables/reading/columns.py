"""Reads sentences from files that hold a word and its tags on each line, plain or gzipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from trainables.reading.json_files import JSON_BLANKS, text_of_file

Column: TypeAlias = Literal["first", "last"]
_PLACES: Mapping[Column, int] = {"first": 0, "last": -1}
_NO_SENTENCE = "-DOCSTART-"  # the only word of a line that begins a document, in CoNLL's files


def is_of_columns(path: Path) -> bool:
    """Whether a file's name does not say that it holds JSON."""
    return not {".json", ".jsonl"} & set(path.suffixes)


def sentences(
    path: Path, data: bytes, columns: Mapping[str, Column], key: str
) -> Iterator[tuple[int, dict[str, list[str]]]]:
    """Line, counted from 1, and columns of each sentence; a blank line ends one.

    Args:
        path: Named in errors, as is the setting `key`.
        data: What the file holds.
        columns: Which column of a line each key of a record is.
        key: The setting that names the file.

    Raises:
        DataError: If the bytes are no text.
    """
    rows: list[list[str]] = []
    first = 1
    for number, line in enumerate((*text_of_file(path, data, key).split("\n"), ""), start=1):
        if words := line.strip(JSON_BLANKS).split():
            first = number if not rows else first
            rows.append(words)
        elif rows:
            if rows[0][0] != _NO_SENTENCE:
                yield (
                    first,
                    {name: [row[_PLACES[at]] for row in rows] for name, at in columns.items()},
                )
            rows = []
