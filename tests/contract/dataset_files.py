"""Every data set of search_spaces/dataset, and files of it that are written from its examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.settings.yaml_files import SearchSpaces
from trainables.datasets import FileDataSet, InstalledDataSet, MadeUpDataSet, get_dataset

SPACES = SearchSpaces()
NAMES = SPACES.names("dataset")
STATED = {name: SPACES.load("dataset", name) for name in NAMES}
MODULES = {name: get_dataset(STATED[name]["module"]) for name in NAMES}
FROM_FILES = [name for name in NAMES if isinstance(MODULES[name], FileDataSet)]
MADE_UP = [name for name in NAMES if isinstance(MODULES[name], MadeUpDataSet)]
INSTALLED = [name for name in NAMES if isinstance(MODULES[name], InstalledDataSet)]
NUM_RECORDS = 40
Row = dict[str, Any]


def rows_of(name: str, num: int = NUM_RECORDS) -> list[Row]:
    """So many records as its files have them, of each of its forms in turn."""
    forms = module(name).EXAMPLES
    written = (json.dumps(forms[n % len(forms)]).replace("{n}", str(n)) for n in range(num))
    return [json.loads(row) for row in written]


def module(name: str) -> FileDataSet:
    found = MODULES[name]
    assert isinstance(found, FileDataSet)
    return found


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path
