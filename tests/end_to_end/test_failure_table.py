"""Failure cases from the command to the table: what an untouched backbone's wrong answers are."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.end_to_end.commands import Commands


@pytest.mark.slow
def test_wrong_answers_are_counted_and_classed_of_texts_and_of_pieces(commands: Commands) -> None:
    sweep = commands.sweep(
        *("ablation=smoke", "backbone=facts_tiny", "method.edit_lr=5e-3", "seeds=[0]"),
        *("paper=lemoe_table7", "protocol.num_edits=4", "protocol.generate=true", "workers=1"),
    )
    assert sweep.returncode == 0, sweep.stderr
    by_arm = {end["spec"]["arm"]: end["records"] for end in commands.ends()}
    for measure, column in (("token", "generated"), ("exact", "exact")):
        text = commands.table("lemoe_table7", "format=csv", f"measure={measure}")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [(row["Method"], row["Prompt"]) for row in rows] == [
            *(("ft_m", "edit"), ("ft_m", "rephrase"), ("no_edit", "edit"), ("no_edit", "rephrase")),
        ]
        for row in rows:
            file = commands.store / "records" / by_arm[row["Method"]]
            score = {"edit": "reliability", "rephrase": "generality"}[row["Prompt"]]
            lines = map(json.loads, file.read_text().splitlines())
            told = [line[column] for line in lines if line["score"] == score]
            assert row["Wrong"] == f"{told.count(0.0)} of {len(told)}"
        # nothing was edited: an answer is the old one or another that the backbone gave before
        untouched = [row for row in rows if row["Method"] == "no_edit"]
        for row in untouched:
            kept = sum(float(row[form]) for form in ("empty", "old", "unchanged"))
            assert kept == pytest.approx(1.0)
