"""The examples run, and what they print is what they promise."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.house import ROOT, copy_house
from tests.real_model import real_model

README = (ROOT / "README.md").read_text("utf-8")
NAMES = ("first_steps.ipynb", "real_model.ipynb")
NOTEBOOKS = {name: json.loads((ROOT / "examples" / name).read_text("utf-8")) for name in NAMES}


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository to work in, beside the trained backbone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(copy_house(tmp_path))
    return tmp_path


def run_cells(*, with_sweep: bool) -> dict[str, Any]:
    """Runs the notebook's cells in their order; what they define."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells("first_steps.ipynb"):
        if with_sweep or "sweep" not in cell["metadata"].get("tags", ()):
            exec(compile("".join(cell["source"]), "first_steps.ipynb", "exec"), names)
    return names


def check_scores(printed: str) -> None:
    """Both editors' lines: GRACE keeps what is unrelated, FT-M is not better at that."""
    rows = re.findall(r"^(ft_m|grace) +([\d.]+) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == ["ft_m", "grace"]
    (ft_reliability, _, ft_locality), (reliability, _, locality) = (
        [float(value) for value in row[1:]] for row in rows
    )
    assert ft_reliability > 0
    assert reliability > 0.5
    assert 1.0 >= locality >= ft_locality


def test_script_edits_takes_back_and_compares(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = runpy.run_path(str(ROOT / "examples" / "edit_and_compare.py"))
    names["main"]()
    printed = capsys.readouterr().out
    before, after, removed = re.findall(r"^\w+: +(.*)$", printed, re.MULTILINE)
    assert after != before
    assert removed == before
    check_scores(printed)


def test_notebook_edits_compares_and_plans(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run_cells(with_sweep=False)
    printed = capsys.readouterr().out
    check_scores(printed)
    assert names["record"].target_new in printed
    assert "How fast may FT-M learn before unrelated answers change?" in printed
    assert not (folder / "search_spaces" / "ablation" / "made_up.yaml").exists()


@pytest.mark.slow
def test_notebook_with_its_sweep_ends_in_a_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cells(with_sweep=True)
    printed = capsys.readouterr().out
    assert "6 trials run" in printed
    header = next(line for line in printed.splitlines() if "reliability_seeds" in line)
    assert "locality" in header


@pytest.mark.slow
@pytest.mark.network
def test_real_model_says_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    real_model()
    [lines] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(lines, "README.md", "exec"), {"__name__": "__main__"})
    shown = re.findall(r"^    (before|after|loaded): +(\[.*)$", README, re.MULTILINE)
    assert re.findall(r"^(before|after|loaded): +(\[.*)$", capsys.readouterr().out, re.M) == shown
    assert len(shown) == 3


def test_notebook_of_a_real_model_holds_the_lines_of_the_readme() -> None:
    [cell] = code_cells("real_model.ipynb")
    assert f"```python\n{''.join(cell['source'])}\n```" in README


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_stored_without_what_a_run_leaves(name: str) -> None:
    cells = code_cells(name)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert NOTEBOOKS[name]["nbformat"] == 4
