"""Serial editing with answers of one's own: written by a sweep, read by another, in every order."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.end_to_end.commands import Commands, assert_agree

SERIAL = ("ablation=arm_order", "backbone=facts_tiny", "method=ft_m", "protocol.num_questions=3")
TAUGHT = (*SERIAL, "protocol.answers_per_question=2", "method.edit_lr=5e-3")
SCORES = ("reliability", "generality", "locality", "average", "stale_rate")


@pytest.mark.slow
def test_answers_that_a_sweep_writes_give_another_the_same_scores_in_every_order(
    commands: Commands,
) -> None:
    written = commands.sweep(*TAUGHT, "--write-answers", "answers.jsonl")
    assert written.returncode == 0, written.stderr
    assert "3 questions with 2 answers each, as seed 0 draws them" in written.stdout
    answers = commands.folder / "answers.jsonl"
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(lines) == 3
    assert all(len(line["answers"]) == 2 for line in lines)
    again = commands.sweep(*TAUGHT, "--write-answers", "answers.jsonl")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: --write-answers answers.jsonl: there is such a file already\n"

    made = commands.sweep(*TAUGHT)
    assert made.returncode == 0, made.stderr
    assert "answers generated (version 1; the last is the data set's own)" in made.stdout
    told = commands.sweep(*TAUGHT, "dataset.answers=answers.jsonl")
    assert told.returncode == 0, told.stderr
    assert_agree(commands)

    tables = commands.table("arm_order")
    assert "alternative answers: from a file (dataset.answers)" in tables
    rows = list(csv.DictReader(io.StringIO(commands.table("arm_order", "format=csv"))))
    by_arm: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_arm.setdefault(row["Arm"], []).append(row)
    assert set(by_arm) == {
        f"ft_m answers_per_question=2 update_order={order}"
        for order in ("rounds", "bursts", "random")
    }
    for one, other in by_arm.values():  # made here, and from the file: two tables
        assert [one[score] for score in SCORES] == [other[score] for score in SCORES]
    ends = commands.ends()
    assert len({end["fingerprint"] for end in ends}) == len(ends) == 6
