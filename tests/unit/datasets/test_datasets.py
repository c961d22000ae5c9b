"""Data sets are found by their files, and nothing else is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainables import datasets
from trainables.datasets import FileDataSet, file_datasets, get_dataset, known_modules
from trainables.errors import ConfigError
from trainables.spec import DatasetSpec

TOY = """
VERSION, TARGET_FIELDS, HAS_PASSAGES = 1, ("answer",), False
EXAMPLES = ({"question": "{n}", "answer": "{n}"},)

def load(paths, target_field=None):
    return "read"
"""


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files stand among the data sets."""
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    for name in ("toy", "parts", "parts.dataset"):
        monkeypatch.setitem(sys.modules, f"trainables.datasets.{name}", None)
        monkeypatch.delitem(sys.modules, f"trainables.datasets.{name}")
    return tmp_path


def test_a_file_when_dropped_in_then_it_is_a_data_set(dropped: Path) -> None:
    (dropped / "toy.py").write_text(TOY)
    (dropped / "parts").mkdir()
    (dropped / "parts" / "__init__.py").write_text("")
    (dropped / "parts" / "dataset.py").write_text(TOY)
    assert {"toy", "parts"} <= set(known_modules())
    for name in ("toy", "parts"):
        found = get_dataset(name)
        assert isinstance(found, FileDataSet)
        assert found.TARGET_FIELDS == ("answer",)


def test_a_file_when_it_lacks_a_part_then_the_part_is_named(dropped: Path) -> None:
    (dropped / "toy.py").write_text(TOY.replace("EXAMPLES", "SAMPLES"))
    with pytest.raises(ConfigError, match=r"is 'toy'; trainables\.datasets\.toy lacks EXAMPLES$"):
        get_dataset("toy")


@pytest.mark.parametrize("name", ["zsrs", "__init__", "../zsre", "json_files", "facts.made_up"])
def test_an_unknown_module_when_asked_for_then_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_dataset(name)
    words = str(caught.value)
    assert words.startswith(f"dataset.module is {name!r}; there is no such data set;")
    assert words.endswith(f" known: {', '.join(known_modules())}")
    assert ("did you mean 'zsre'?" in words) == ("zsr" in name)


def test_module_when_none_is_named_then_it_is_the_data_set_of_that_name() -> None:
    assert DatasetSpec("zsre", "all").module_name == "zsre"
    assert DatasetSpec("mine", "all", module="zsre").module_name == "zsre"


def test_data_sets_of_files_are_told_from_made_up_ones() -> None:
    assert "zsre" in file_datasets()
    assert {"zsre", "facts"} <= set(known_modules())
    assert "facts" not in file_datasets()
