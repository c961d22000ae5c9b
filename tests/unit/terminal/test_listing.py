from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from orchestrator.settings.yaml_files import SearchSpaces
from orchestrator.terminal import listing
from tests.unit.small_spaces import write_small_spaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")


def shown(what: RenderableType) -> list[str]:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text().splitlines()


def row(lines: list[str], start: str) -> list[str]:
    return next(line.split() for line in lines if line.startswith(start))


def test_ablations_when_listed_then_each_has_question_table_and_trials(folder: Path) -> None:
    lines = shown(listing.ablations(SearchSpaces(folder)))
    # quick: 9 arms x 2 seeds; paper: rank 2048 x 3 pairs x 2 layers x 1 seed
    assert row(lines, "ranks") == [
        *["ranks", "From", "which", "rank", "on?", "lemoe_table9", "18", "6"]
    ]
    assert row(lines, "search")[-2:] == ["11", "11"]  # 5 + 3 x 2
    assert row(lines, "methods")[-2:] == ["6", "9"]


def test_ablations_when_one_is_broken_then_the_others_are_still_listed(folder: Path) -> None:
    (folder / "method/multi.yaml").unlink()
    lines = shown(listing.ablations(SearchSpaces(folder)))
    assert row(lines, "methods")[-2:] == ["-", "-"]
    assert any("cannot run: method=multi: no such name" in line for line in lines)
    assert row(lines, "ranks")[-2:] == ["18", "6"]
