"""Figure 3 of both MEMoE papers: changes of tasks, paired by question, as table and as figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures import ability
from analysis.figures.style import styled
from analysis.intervals import interval_of_change
from analysis.render.documents import render
from analysis.reports.table_report import Options, assemble
from tests.unit.analysis_store import BATCH, Writer

STREAM = BATCH | {"kind": "lifelong", "num_edits": 40, "edit_batch_size": 10, "num_batches": 4}
ASKED = {"ability": "boolq", "ability_questions": 8}


def lines(
    before: list[float], after: list[float], *, batch: int = 0, is_perplexity: bool = False
) -> list[dict[str, Any]]:
    """The answers to some questions, as a trial's per-record file has them."""
    return [
        {
            "record_id": f"boolq {number}",
            "score": "ability.boolq",
            "when": "ability",
            "batch": batch,
            "is_perplexity": is_perplexity,
            "value": new,
            "weight": 1.0,
            "value_before": old,
            "weight_before": 1.0,
        }
        for number, (old, new) in enumerate(zip(before, after, strict=True))
    ]


def interval(*trials: list[dict[str, Any]]) -> tuple[float, float] | None:
    return interval_of_change([pd.DataFrame(trial) for trial in trials])


def test_interval_pairs_each_question_with_itself() -> None:
    scores = np.random.default_rng(0).random(40)
    exact = interval(lines(scores.tolist(), (scores - 0.1).tolist()))
    assert exact == pytest.approx((-0.1, -0.1))  # whatever is drawn: all questions lose as much
    unchanged = interval(lines([0.0, 1.0] * 9, [0.0, 1.0] * 9))
    assert unchanged == (0.0, 0.0)


def test_interval_holds_what_the_questions_leave_open() -> None:
    before, after = [1.0] * 50, [0.0] * 10 + [1.0] * 40
    found = interval(lines(before, after))
    assert found is not None
    # 10 of 50 questions were lost: -0.2, give or take 1.96 * sqrt(0.2 * 0.8 / 50).
    half = 1.96 * math.sqrt(0.2 * 0.8 / 50)
    assert found == pytest.approx((-0.2 - half, -0.2 + half), abs=0.02)
    # Seeds and batches ask the same questions: more of them tell no more about other questions.
    assert interval(lines(before, after), lines(before, after)) == found
    twice = lines(before, after) + lines(before, after, batch=1)
    assert interval(twice) == found


def test_interval_of_losses_is_of_perplexities() -> None:
    found = interval(lines([0.0] * 5, [math.log(3)] * 5, is_perplexity=True))
    assert found == pytest.approx((2.0, 2.0))


def test_interval_needs_two_questions() -> None:
    assert interval() is None
    assert interval(lines([1.0], [0.0])) is None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and one of the other paper, in batches and a stream."""
    folder = tmp_path_factory.mktemp("ability")
    write = Writer(folder)
    lost = {"memoe_v1": (0, 1), "memoe_v2": (0, 0), "memit": (4, 6)}
    for method, counts in lost.items():
        for protocol, count in ((BATCH, counts[0]), (STREAM, counts[1])):
            kind = str(protocol["kind"])
            asked = lines([1.0] * 8, [0.0] * count + [1.0] * (8 - count))
            write.trial(
                *("memoe_ability", f"{kind} {method}", 0, (0.9, 0.8, 1.0), asked),
                {
                    "ability.boolq.before": 1.0,
                    "ability.boolq.final": 1 - count / 8,
                    "ability_change.boolq": -count / 8,
                },
                method=method,
                paper="memoe_v1_figure3, memoe_v2_figure3",
                protocol=protocol | ASKED,
                swept={"arm": kind},
            )
    return folder


def test_table_has_the_change_of_each_method_and_size_below_the_backbones_own_score(
    store: Path,
) -> None:
    (table,) = assemble("memoe_v1_figure3", Options((store,)))
    text = render([table], "markdown")
    found = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in found]
    assert [row[:2] for row in cells] == [
        ["Method", "Edits"],
        ["unedited", "-"],
        ["memoe_v1", "batch of 30"],
        ["memoe_v1", "stream, 40 edits"],
        ["memit", "batch of 30"],
        ["memit", "stream, 40 edits"],
    ]
    assert [row[2] for row in cells[:3]] == ["Rel.", "-", "0.90 (1)"]
    assert [row[3] for row in cells[:3]] == ["BoolQ", "1.000 (1)", "0.000 [0.000, 0.000] (1)"]
    assert cells[4][3].startswith("-0.500 [-0.8")
    assert "left out: 2 arms of memoe_v2, which is not in this figure" in text
    assert "bootstrap over subjects" not in text
    assert "protocol: ability boolq, ability_questions 8" in text


def test_table_of_the_other_paper_has_its_own_method(store: Path) -> None:
    (table,) = assemble("memoe_v2_figure3", Options((store,)))
    assert {row.labels[0] for row in table.rows} == {"unedited", "memoe_v2", "memit"}


def test_figure_has_a_panel_for_each_task_and_a_line_for_each_method(store: Path) -> None:
    (table,) = assemble("memoe_v1_figure3", Options((store,)))
    with styled():
        figure = ability.draw(table)
    (axes,) = figure.axes
    assert axes.get_title() == "BoolQ: change from 1.00"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["memoe_v1", "memit"]
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["batch of 30", "stream, 40 edits"]
    assert axes.get_yscale() == "linear"


def test_table_of_arms_that_were_asked_nothing_says_so(tmp_path: Path) -> None:
    Writer(tmp_path).trial(
        *("memoe_ability", "batch memit", 0, (0.9, 0.8, 1.0)),
        method="memit",
        paper="memoe_v1_figure3, memoe_v2_figure3",
    )
    (table,) = assemble("memoe_v1_figure3", Options((tmp_path,)))
    assert table.rows == ()
    assert any(note.startswith("nothing was asked: add evaluate.ability") for note in table.notes)
