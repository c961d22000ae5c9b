"""What the documents and the packages' docstrings say of the tree is what is there."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.settings.yaml_files import SearchSpaces

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/PAPERS.md")
_FOLDERS = "trainables|orchestrator|analysis|search_spaces|tests|docs|examples|findings"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_are_there(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    shown = re.findall(r"^```\w+ (\S+)$", text, re.MULTILINE)  # files that a recipe makes
    named = {name for name in re.findall(rf"`((?:{_FOLDERS})/[\w/.]*)`", text)} - set(shown)
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("package", ["orchestrator", "trainables", "analysis"])
def test_rooms_that_a_package_lists_are_those_it_has(package: str) -> None:
    lines = re.findall(r"^- (.*)$", importlib.import_module(package).__doc__ or "", re.MULTILINE)
    # The names that open a line, or a sentence within it; what follows a colon explains them.
    listed = [
        name
        for line in lines
        for names in re.findall(r"(?:^|\. )((?:`\w+`(?:, )?)+):", line)
        for name in re.findall(r"\w+", names)
    ]
    there = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert sorted(listed) == sorted(there)


def test_drawing_is_what_its_command_draws_now(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "docs/draw_rooms.py", str(tmp_path / "rooms.svg")], cwd=ROOT, check=True
    )
    drawn = (tmp_path / "rooms.svg").read_text("utf-8")
    assert drawn == (ROOT / "docs" / "rooms.svg").read_text("utf-8"), "run docs/draw_rooms.py"


def test_drawing_of_two_levels_shows_who_imports_whom_and_the_higher_one_above() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "draw_rooms.py"))
    room = drawing["Room"]
    high, low = room("high", ("low", "other.room"), ("torch",)), room("low", (), ())
    text = drawing["draw"]({"package": [[high], [low]]})
    assert re.sub(r"<[^>]*>", "", text).split() == [
        *("package/", "each", "level", "imports", "only", "from", "those", "below", "it"),
        *("high:", "low,", "other.roomtorch", "low"),
    ]
    # Boxes of one line: 15 high and 7 above and below, 7 apart.
    assert re.findall(r' y="(\d+)" width="410" height="(\d+)"', text) == [
        ("64", "29"),
        ("100", "29"),
    ]


def test_table_of_findings_is_made_of_the_first_lines_of_their_scripts() -> None:
    table = subprocess.run(
        ["bash", "findings/table.sh"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    rows = re.findall(r"^\| `(\w+\.sh)` \| \S.* \|$", table, re.MULTILINE)
    assert len(rows) == len(list((ROOT / "findings").glob("*.sh"))) - len(("lib.sh", "table.sh"))
    assert table in (ROOT / "findings" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("script", sorted((ROOT / "findings").glob("*.sh")), ids=lambda p: p.name)
def test_script_of_a_finding_can_be_read_by_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_readme_s_table_of_editors_names_every_method() -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("\n## The editors\n")[1]
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(SearchSpaces().names("method"))


def test_page_of_the_papers_is_what_its_command_writes_now_and_every_printed_value_is_planned(
    tmp_path: Path,
) -> None:
    page = tmp_path / "PAPERS.md"
    subprocess.run([sys.executable, "docs/list_papers.py", str(page)], cwd=ROOT, check=True)
    text = page.read_text("utf-8")
    assert text == (ROOT / "docs" / "PAPERS.md").read_text("utf-8"), "run docs/list_papers.py"
    counts = re.findall(r"\| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert counts
    assert [pair for pair in counts if pair[0] != pair[1]] == []


@pytest.mark.parametrize(
    ("title", "tables", "figures"),
    [("MEMoE v1", 6, 5), ("MEMoE v2", 7, 5), ("LEMoE", 9, 5), ("ARM / MoKE", 13, 6)],
)
def test_page_of_the_papers_when_a_table_or_figure_is_numbered_then_it_has_a_line(
    title: str, tables: int, figures: int
) -> None:
    text = (ROOT / "docs" / "PAPERS.md").read_text("utf-8")
    part = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    for kind, count in (("Table", tables), ("Figure", figures)):
        lines = re.findall(rf"^\| {kind}s? ([^|]*) \|", part, re.MULTILINE)
        listed = [int(number) for line in lines for number in re.findall(r"\d+", line)]
        assert sorted(set(listed)) == list(range(1, count + 1))
