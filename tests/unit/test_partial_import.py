"""A Config out of its method's file, without torch, is what an ordinary import gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from orchestrator.settings.yaml_files import REPOSITORY, SearchSpaces
from trainables.errors import ConfigError
from trainables.methods import (
    Settings,
    get_method,
    known_modules,
    method_settings,
    module_of,
)
from trainables.partial_import import PartialImport

SPACES = SearchSpaces()
MODULES = known_modules()
# For every field a value of a wrong kind or out of any range: Configs refuse most of them.
BAD: tuple[Any, ...] = (
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    True,
    "nonsense",
    None,
    [],
    {},
)


def taken(module: str) -> Any:
    """The Config without the import, also where this process has imported its module."""
    return PartialImport()._taken(module_of(module), "CONFIG")


def settings_of(module: str) -> dict[str, Any]:
    return next(
        method_settings(loaded)
        for name in SPACES.names("method")
        if (loaded := SPACES.load("method", name)).get("module", name) == module
    )


def answer(config: Any, module: str, values: dict[str, Any]) -> str:
    """What comes of building it: its fields, or the complaint."""
    try:
        return repr(vars(Settings(module, config).build(values)))
    except ConfigError as error:
        return str(error)


def test_name_when_taken_for_every_method_then_torch_is_not_imported() -> None:
    code = (
        "import sys\n"
        "from trainables.partial_import import PartialImport\n"
        "from trainables.methods import known_modules, module_of\n"
        "names = PartialImport()\n"
        "for module in known_modules():\n"
        "    names.name(module_of(module), 'CONFIG')\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES)
def test_config_when_taken_then_it_has_the_same_fields(module: str) -> None:
    ours, ordinary = taken(module), get_method(module)[0]
    assert [(f.name, f.default) for f in fields(ours)] == [
        (f.name, f.default) for f in fields(ordinary)
    ]
    assert get_type_hints(ours) == get_type_hints(ordinary)
    assert vars(ours(**settings_of(module))) == vars(ordinary(**settings_of(module)))


@pytest.mark.parametrize("module", MODULES)
def test_config_when_taken_then_it_answers_every_value_alike(module: str) -> None:
    ours, ordinary, values = taken(module), get_method(module)[0], settings_of(module)
    for key in values:
        refused = 0
        for bad in BAD:
            said = answer(ours, module, {**values, key: bad})
            assert said == answer(ordinary, module, {**values, key: bad})
            refused += said.startswith(f"method.{key} is ")
        assert refused >= 5, key  # words for numbers and numbers for words, at least


FILE = '''
"""A module that imports what is not there."""
import heavy_and_absent
from dataclasses import dataclass
from typing import Literal

Choice = Literal["a", "b"]
BOUND = 3


def _limit() -> int:
    return BOUND * FACTOR


FACTOR = 2


@dataclass(frozen=True)
class Config:
    choice: Choice
    limit: int = _limit()

    def trained(self) -> "heavy_and_absent.Tensor":
        return None


class Method:
    base = heavy_and_absent.Module


CONFIG = Config
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_name_when_others_need_what_is_absent_then_it_is_there_all_the_same(package: Path) -> None:
    (package / "sliced_one.py").write_text(FILE)
    config = PartialImport().name("sliced_one", "CONFIG")
    assert config("a").limit == 6  # 3 * 2: names that stand below in the file, too
    assert "sliced_one" not in sys.modules


def test_name_when_it_needs_another_package_itself_then_it_is_imported(package: Path) -> None:
    (package / "sliced_two.py").write_text(FILE)
    with pytest.raises(ModuleNotFoundError, match="heavy_and_absent"):
        PartialImport().name("sliced_two", "Method")


def test_name_when_the_module_does_something_then_it_is_imported(package: Path) -> None:
    (package / "sliced_three.py").write_text("LIMIT = [1]\nLIMIT.append(2)\n")
    assert PartialImport().name("sliced_three", "LIMIT") == [
        1,
        2,
    ]  # not [1], as the first line says


def test_name_when_nothing_defines_it_then_says_so(package: Path) -> None:
    (package / "sliced_four.py").write_text("LIMIT = 1\n")
    with pytest.raises(AttributeError, match=r"sliced_four.py defines no CONFIG"):
        PartialImport().name("sliced_four", "CONFIG")


def test_name_when_the_module_is_imported_already_then_it_is_that_one() -> None:
    ordinary = get_method("ft")[0]
    assert PartialImport().name("trainables.methods.ft", "CONFIG") is ordinary
