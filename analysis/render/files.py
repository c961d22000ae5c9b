"""Writes the files that a command is asked for, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from analysis.errors import OutputError


def write_file(path: Path, content: bytes, option: str) -> None:
    """Write a file so that whoever reads it sees all of it or what was there before.

    Args:
        path: Where; folders on the way are made.
        content: All of it.
        option: The option of the command that names the place, for the error.

    Raises:
        OutputError: If it cannot be written; nothing is left of the attempt.
    """
    made = make_folder(path.parent, option)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        remove_folders(made)
        raise _refused(path, option, error) from None


def make_folder(path: Path, option: str) -> tuple[Path, ...]:
    """Make a folder with those on the way to it, and return those that were not there.

    Args:
        path: The folder.
        option: The option of the command that names it, for the error.

    Raises:
        OutputError: If it cannot be made; nothing is left of the attempt.
    """
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    made: list[Path] = []
    for folder in reversed(missing or [path]):
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            remove_folders(made)
            raise _refused(path, option, error) from None
        made += [folder] if missing else []
    return tuple(made)


def remove_folders(made: Sequence[Path]) -> None:
    """Remove the folders that `make_folder` made, as far as they are empty."""
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _refused(path: Path, option: str, error: OSError) -> OutputError:
    return OutputError(f"{option}=: cannot write {path}: {error.strerror}")
