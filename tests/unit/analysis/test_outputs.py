"""A command that cannot write says so in a line and leaves nothing; no option is typed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analysis import claims, figure, presets, report, table
from analysis.arguments import parse_options
from analysis.errors import OutputError
from analysis.render.files import make_folder, write_file
from tests.unit.analysis_store import shared_store

Main = Callable[[Sequence[str]], int]


def test_write_when_folders_are_missing_then_they_are_made(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b" / "page", b"text", "out")
    assert (tmp_path / "a" / "b" / "page").read_bytes() == b"text"
    assert [each.name for each in (tmp_path / "a" / "b").iterdir()] == ["page"]


def test_write_when_a_folder_has_the_name_then_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=r"^out=: cannot write .*taken: Is a directory$"):
        write_file(tmp_path / "taken", b"text", "out")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
    assert not list((tmp_path / "taken").iterdir())


def test_write_when_it_fails_behind_new_folders_then_they_go(tmp_path: Path) -> None:
    name = "n" * 300  # longer than a file's name may be
    with pytest.raises(OutputError, match="File name too long"):
        write_file(tmp_path / "a" / "b" / name, b"text", "out")
    with pytest.raises(OutputError, match="File name too long"):
        make_folder(tmp_path / "a" / name, "parts")
    assert not list(tmp_path.iterdir())


def said(capsys: pytest.CaptureFixture[str], main: Main, *words: str) -> str:
    """The only line on standard error of a command that ends in status 2."""
    capsys.readouterr()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_figure_when_its_folder_cannot_be_then_a_line_names_the_option(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shared_store(tmp_path_factory)
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        words = ("lemoe_table9", f"store={store}", f"out={tmp_path / place}")
        assert said(capsys, figure.main, *words).startswith("figure.py: out=: cannot write ")
    assert said(capsys, figure.main, "lemoe_table9", f"store={store}", "out=/proc/nope")
    assert (tmp_path / "file").read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_report_when_a_place_cannot_be_then_a_line_names_the_option_and_nothing_is_written(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shared_store(tmp_path_factory)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    out, parts = f"out={tmp_path / 'page.html'}", f"parts={tmp_path / 'parts'}"
    for words, option in (
        ((f"out={tmp_path / 'folder'}", parts), "out"),
        ((out, f"parts={tmp_path / 'file'}"), "parts"),
        ((out, "parts=/proc/nope"), "parts"),
    ):
        told = said(capsys, report.main, f"store={store}", *words)
        assert told.startswith(f"report.py: {option}=: cannot write ")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize(
    ("main", "words", "key"),
    [
        (table.main, ("lemoe_table9", "format=csv", "format=html"), "format"),
        (figure.main, ("lemoe_table9", "out=a", "out=b"), "out"),
        (claims.main, ("lemoe", "store=a", "store=b"), "store"),
        (report.main, ("out=a", "out=a"), "out"),
        (presets.main, ("backbone=a", "backbone=b"), "backbone"),
    ],
)
def test_command_when_a_key_is_typed_twice_then_it_is_refused(
    main: Main, words: Sequence[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{key} is typed twice: " in said(capsys, main, *words)


def test_options_when_typed_once_then_the_others_have_their_defaults() -> None:
    names, options = parse_options(["lemoe", "format=csv"], {"format": "auto", "out": ""}, {})
    assert names == ("lemoe",)
    assert options == {"store": "results", "mlflow": "", "measure": "", "format": "csv", "out": ""}
