"""Which locality of a data set tables and claims take for the published one."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.aggregate import sections
from analysis.reading.published_locality import published_locality
from analysis.reading.runs import read_runs
from analysis.render.documents import render
from analysis.reports.table_report import Options, assemble
from tests.unit.analysis_store import Writer


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("facts", "locality_far"),
        ("zsre", "locality_far"),
        ("counterfact", "locality_near"),
        ("wiki_counterfact", "locality_same"),
        ("of_someone_else", "locality_far"),
    ],
)
def test_published_locality_then_what_the_file_of_the_data_set_says(
    dataset: str, expected: str
) -> None:
    assert published_locality(dataset) == expected


def test_published_locality_when_a_file_builds_on_another_then_that_of_its_base(
    tmp_path: Path,
) -> None:
    (tmp_path / "first.yaml").write_text("name: first\nlocality: same\n")
    (tmp_path / "second.yaml").write_text("name: second\nbase: first\n")
    (tmp_path / "third.yaml").write_text("name: third\nbase: second\nlocality: near\n")
    (tmp_path / "round.yaml").write_text("name: round\nbase: round\n")
    found = [published_locality(name, tmp_path) for name in ("second", "third", "round")]
    assert found == ["locality_same", "locality_near", "locality_far"]


def test_table_of_counterfact_then_its_near_questions_fill_locality_and_average(
    tmp_path: Path,
) -> None:
    write = Writer(tmp_path)
    scores = {"reliability": 0.9, "generality": 0.6, "locality_near": 0.3, "locality_same": 0.5}
    numbers = {f"{name}.token.final": value for name, value in scores.items()}
    records = [
        {"record_id": str(i), "subject": f"s{i}", "score": score, "token": value, "exact": 0}
        for i in range(3)
        for score, value in scores.items()
    ]
    write.trial("own", "first", 0, None, records, numbers, dataset="counterfact", paper="")
    ((arm,),) = [each.arms for each in sections(read_runs([tmp_path], "own"))]
    assert {name: each.mean for name, each in arm.scores.items()} == pytest.approx(
        {
            **{"reliability": 0.9, "generality": 0.6, "locality": 0.3, "locality_same": 0.5},
            "average": 0.6,  # (0.9 + 0.6 + 0.3) / 3
        }
    )
    (table,) = assemble("own", Options((tmp_path,)))
    printed = render([table], "markdown")
    assert "- measure: token, after the last edit; Loc. is locality_near" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("| first")]
    cells = [cell.split()[0] for cell in row.split("|")[2:-1]]
    assert cells == ["0.90", "0.60", "0.30", "0.60", "0.50"]
    assert "[0.30, 0.30]" in row  # resampled from the answers to the near questions
