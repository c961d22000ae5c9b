"""Reads objects from files that hold one JSON list or JSON lines, plain or gzipped.

Nothing in a file is ever used as a path.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
JSON_BLANKS = " \t\r\n"
PATH = "dataset.path"  # the setting that names most files


def read_bytes(path: Path, key: str = PATH) -> bytes:
    """The bytes of `path`, which the setting `key` names, as they are.

    Raises:
        DataError: If it is missing, no file, or empty.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{key} is {path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{key} is {path}: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{key} is {path}: the file is empty")
    return data


def objects(path: Path, data: bytes, key: str = PATH) -> Iterator[tuple[int, Any]]:
    """Line (in a JSON list: position), counted from 1, and value of every record in `data`.

    Raises:
        DataError: If the bytes are no text or no JSON; `key` and `path` are named.
    """
    text = text_of_file(path, data, key)
    if text.lstrip(JSON_BLANKS).startswith("["):
        yield from enumerate(_parse(path, text, 1, key), start=1)
        return
    # Not splitlines(): it also cuts at U+2028 and its kin, which JSON allows inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(JSON_BLANKS):
            yield number, _parse(path, line, number, key)


def text_of_file(path: Path, data: bytes, key: str) -> str:
    """The text of a file, gunzipped where it is gzipped.

    Raises:
        DataError: If the bytes are no text; `key` and `path` are named.
    """
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{key} is {path}: broken gzip file ({error})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object: the decoder has dropped a byte order mark, so positions count from there.
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{key} is {path}, line {line}: not UTF-8 text") from error


def _parse(path: Path, text: str, first_line: int, key: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        message = f"{key} is {path}, line {line}: not valid JSON ({error.msg})"
        raise DataError(message) from error
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, or lists nested thousands deep: no data set has these.
        message = f"{key} is {path}, line {first_line}: not usable JSON ({error})"
        raise DataError(message) from error
