"""The command that draws, on real stores: every published figure with data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analysis import figure
from tests.unit.analysis_store import shared_store
from tests.unit.published_store import published_store

COMMAND = Path(figure.__file__)
PUBLISHED = (
    *("memoe_v1_figure1", "memoe_v1_figure3", "memoe_v1_figure4"),
    *("memoe_v2_figure1", "memoe_v2_figure3", "memoe_v2_figure4"),
    *("lemoe_figure2", "lemoe_figure2_right", "lemoe_figure3", "lemoe_figure5"),
    *("arm_figure4a", "arm_figure4b", "arm_figure4c", "arm_figure5"),
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figure_then_it_is_drawn(
    name: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = published_store(tmp_path_factory), tmp_path_factory.mktemp("figures")
    assert figure.main([name, f"store={folder}", f"out={out}"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert paths[0].stem.startswith(name)
    assert all(path.read_text("utf-8").startswith("<?xml") for path in paths)


@pytest.mark.parametrize(("form", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_command_when_a_format_is_named_then_the_file_is_of_it(
    form: str, begins: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, out = shared_store(tmp_path_factory), tmp_path_factory.mktemp("figures")
    words = ["lemoe_table9", f"store={folder}", f"format={form}", f"out={out}"]
    assert figure.main(words) == 0
    assert (out / f"lemoe_table9.{form}").read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no figure was named"),
        (["lemoe_table9", "lemoe_table8"], "2 figures were named"),
        (["lemoe_table9", "kind=pie"], "kind is 'pie'; it must be one of auto, dots"),
        (["lemoe_table9", "fromat=png"], "did you mean 'format'"),
        (["lemoe_table10"], "no table 'lemoe_table10'"),
        (["lemoe_table9", "score=speed"], "score=speed is for kind=heat_map alone"),
        (["lemoe_table9", "kind=heat_map", "score=speed"], "no such score"),
    ],
)
def test_command_when_typed_wrong_then_one_line_names_it(
    words: list[str],
    told: str,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shared_store(tmp_path_factory)
    capsys.readouterr()  # what making the store has said
    assert figure.main([*words, f"store={folder}"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_command_then_help_does_not_wait_for_what_draws() -> None:
    code = (
        "import sys, analysis.figure; print('matplotlib' in sys.modules, 'pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
    assert (
        "format=FORM"
        in subprocess.run(
            [sys.executable, str(COMMAND), "--help"], capture_output=True, text=True, check=True
        ).stdout
    )
