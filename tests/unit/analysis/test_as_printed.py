"""What each printed equation costs its method, taken within seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import table
from tests.unit.analysis_store import LIFELONG, Writer

PAPER = {"paper": "as_printed", "protocol": LIFELONG}
GIVEN = PAPER | {"protocol": LIFELONG | {"order": "given"}}
WORKING = ((0.9, 0.9, 0.9), (0.6, 0.6, 0.6), (0.3, 0.3, 0.3))


def shown(store: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of the printed rows: method, arm, four scores, difference, own expert."""
    assert table.main(["as_printed", f"store={store}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(("| lemoe", "| arm"))]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows]


def test_difference_is_taken_within_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(tmp_path)
    for seed, scores in enumerate(WORKING):
        low = (scores[0] - 0.2, scores[1] - 0.2, scores[2] - 0.2)
        for arm, own in (("lemoe_printed", low), ("lemoe", scores), ("lemoe_gates", scores)):
            writer.trial("as_printed", arm, seed, own, method="lemoe", **PAPER)
    rows = shown(tmp_path, capsys)
    assert [row[1] for row in rows] == ["lemoe", "lemoe_gates", "lemoe_printed"]
    # the averages are .9, .6, .3, so that both means have wide intervals; the differences are
    # .2 in each seed, and so is their mean
    assert rows[0][5].startswith("0.60 ± 0.7")
    assert rows[0][6] == "-"
    assert rows[1][6] == "0.00 ± 0.00 (3)"
    assert rows[2][6] == "-0.20 ± 0.00 (3)"


def test_difference_when_the_working_method_was_not_run_then_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(tmp_path)
    writer.trial("as_printed", "arm_printed", 0, WORKING[0], method="arm", **GIVEN)
    writer.trial("as_printed", "lemoe", 0, WORKING[0], method="lemoe", **PAPER)
    writer.trial("as_printed", "lemoe_printed", 1, WORKING[0], method="lemoe", **PAPER)
    assert [row[6] for row in shown(tmp_path, capsys)] == ["arm not run", "-", "no seed in common"]
