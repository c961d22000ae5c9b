"""Data sets, one module each, found by file name and imported only when used.

Every module says its `VERSION`, raised with a change that moves a number; its `TARGET_FIELDS`,
where the new answer may stand, the published field first; and `HAS_PASSAGES`, whether targets are
running text. A `FileDataSet` is read from files that a user names, an `InstalledDataSet` from
packages that are installed beside this one, a `MadeUpDataSet` from nothing.
A data set that needs parts of its own is a folder, whose `dataset.py` is its module.

A YAML of search_spaces/dataset names its module, so that several can share one: a variant is one
more YAML. The contract suite finds it, and feeds it with the module's own `EXAMPLES`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from trainables.errors import ConfigError
from trainables.reading.loaded import Loaded, Paths
from trainables.records import EditRecord


class DataSet(Protocol):
    """What every module of a data set offers."""

    VERSION: int
    TARGET_FIELDS: tuple[str, ...]
    HAS_PASSAGES: bool


@runtime_checkable
class FileDataSet(DataSet, Protocol):
    """A data set whose records stand in files.

    Attributes:
        EXAMPLES: One record of each form that its files have, as JSON; `{n}` stands for a number,
            by which records, and their subjects, differ.
    """

    EXAMPLES: tuple[Mapping[str, Any], ...]

    def load(self, paths: Paths, target_field: str | None = None) -> Loaded:
        """The records of some files; None: with the target of the published field.

        Raises:
            ConfigError: If there is no such target field.
            DataError: If a file is missing, empty or broken, or if no record is usable.
        """


@runtime_checkable
class InstalledDataSet(DataSet, Protocol):
    """A data set about the real world whose facts come with packages that are installed.

    Attributes:
        MOST_ASKED: Locality questions of a kind that an edit is scored on. A record may offer more,
            so that those which a backbone answers rightly can be chosen, see `dataset.known_only`.
    """

    MOST_ASKED: int

    def loaded(self) -> Loaded:
        """The records of all parts, and what is left out of them."""


@runtime_checkable
class MadeUpDataSet(DataSet, Protocol):
    """A data set about the made-up world, for the embedded backbones trained on that world."""

    def records(
        self, part: Literal["tune", "report", "all"], known: Collection[str] | None = None
    ) -> tuple[EditRecord, ...]:
        """The records of one part; no subject is in both `tune` and `report`.

        Args:
            part: Which.
            known: Ids of the facts that may be asked for locality, as the backbone answers them
                rightly; None: all.
        """

    def digest(self) -> str:
        """SHA-256 of all that decides a record."""


def known_modules() -> list[str]:
    """Names of all modules of data sets."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_dataset(module: str) -> FileDataSet | InstalledDataSet | MadeUpDataSet:
    """The data set whose module bears that name.

    Raises:
        ConfigError: If there is no such file, or if it does not offer what a data set must.
    """
    are_folders = {found.name: found.ispkg for found in pkgutil.iter_modules(__path__)}
    if module not in are_folders:
        close = difflib.get_close_matches(module, are_folders, n=1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"dataset.module is {module!r}; there is no such data set;{hint} "
            f"known: {', '.join(known_modules())}"
        )
    name = f"{__name__}.{module}"
    found = importlib.import_module(f"{name}.dataset" if are_folders[module] else name)
    if not isinstance(found, FileDataSet | InstalledDataSet | MadeUpDataSet):
        raise ConfigError(f"dataset.module is {module!r}; {name} lacks {_missing(found)}")
    return found


def file_datasets() -> list[str]:
    """Names of the modules whose records stand in files."""
    return [name for name in known_modules() if isinstance(get_dataset(name), FileDataSet)]


def _missing(found: object) -> str:
    """Names that a data set must have and that this module lacks."""
    of_all = ("VERSION", "TARGET_FIELDS", "HAS_PASSAGES")
    own = ("load", "EXAMPLES")
    if hasattr(found, "records"):
        own = ("records", "digest")
    elif hasattr(found, "loaded"):
        own = ("loaded", "MOST_ASKED")
    return ", ".join(name for name in (*of_all, *own) if not hasattr(found, name))
