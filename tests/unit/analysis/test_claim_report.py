"""From a store to verdicts: one ablation of MEMoE v1 Table 5, three seeds, written by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from analysis.claim_report import Options, report
from analysis.claims import main
from tests.unit.analysis_store import Writer

# Generality by seed; reliability and locality are equal everywhere.
GENERALITY = {
    "knowledge_anchor": (0.90, 0.91, 0.89),
    "token": (0.80, 0.81, 0.79),
    "sentence": (0.85, 0.86, 0.84),  # above token, not below it as the paper has it
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = Writer(tmp_path_factory.mktemp("claims"))
    for arm, values in GENERALITY.items():
        for seed, value in enumerate(values):
            scores = (1.0, value, 1.0)
            tags = {"paper": "memoe_v1_table5", "swept": {"arm": arm}, "method": "memoe_v1"}
            writer.trial("memoe_routing_input", arm, seed, scores, **tags)
    return writer.store


def test_report_when_csv_then_each_comparison_has_its_difference_and_verdict(store: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(report(["memoe_v1.c2"], Options(store), "csv"))))
    generality = {
        line["comparison"]: (float(line["difference"]), line["verdict"])
        for line in lines
        if line["score"] == "generality"
    }
    assert generality == {
        "knowledge_anchor above token": (pytest.approx(0.10), "confirmed"),
        "knowledge_anchor above sentence": (pytest.approx(0.05), "confirmed"),
        "token above sentence": (pytest.approx(-0.05), "refuted"),
    }
    others = [line for line in lines if line["score"] != "generality"]
    assert [line["verdict"] for line in others] == ["confirmed"] * 4  # within .005: equal
    assert {line["claim_verdict"] for line in lines} == {"refuted"}
    assert {line["seeds"] for line in lines} == {"3"}


def test_report_when_markdown_then_what_was_not_run_is_named_with_its_ablation(store: Path) -> None:
    lines = report(["memoe_v1"], Options(store), "markdown").splitlines()
    heading = "## Published claims on backbone facts, dataset facts: "
    assert lines[0] == heading + "0 confirmed, 1 refuted, 0 undecided, 8 not run"
    assert "### memoe_v1.c2: refuted" in lines
    missing = next(line for line in lines if line.startswith("- not run"))
    assert "memoe_v1.c1 (memoe_batch)" in missing
    assert "memoe_v1.c4 (memoe_experts, memoe_layers)" in missing


def test_report_when_no_comparison_is_written_then_the_claim_is_named(store: Path) -> None:
    asked = ["memoe_v1.c2", "lemoe.c7"]
    last = report(asked, Options(store), "markdown").splitlines()[-1]
    assert last == "- no comparison of arms is written for: lemoe.c7"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["memoe_v3"], "no claim or paper 'memoe_v3'; papers: memoe_v1, memoe_v2, lemoe, arm;"),
        (["arm"], "no ablation in the store tests these claims; they are: arm_serial, "),
        (["stor=x"], "unknown option 'stor'; did you mean 'store'?"),
        (["format=latex"], "format is 'latex'; it must be one of markdown, csv"),
        (["store=nowhere"], "store=nowhere has no mlflow.db"),
    ],
)
def test_command_when_it_cannot_answer_then_one_line_and_status_2(
    store: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"store={store}", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"claims.py: {said}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
