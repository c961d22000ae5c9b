"""Scores of trials that sweeps with another metric have run."""

from __future__ import annotations

from pathlib import Path

from orchestrator.running.scores import Scores
from orchestrator.settings.metrics import compared
from orchestrator.store.ledger import Ledger, Others
from orchestrator.store.ledger_rows import CheckpointRow, EndRow
from orchestrator.store.settled import Options, Settled

METRICS = {"reliability.token.final": 0.75, "generality.token.final": 0.25, "compared": 9.0}


def test_score_when_another_metric_was_compared_then_it_is_taken_from_the_end() -> None:
    scores = Scores(compared("generality.token"))
    scores.note(EndRow("same", "finished", metrics=METRICS, compared_by="generality.token"))
    scores.note(EndRow("early", "finished", metrics=METRICS))  # of a version that did not say
    scores.note(EndRow("other", "finished", metrics=METRICS, compared_by="reliability.token"))
    stopped = {**METRICS, "rung": 1}
    scores.note(EndRow("stopped", "stopped", metrics=stopped, compared_by="reliability.token"))
    found = [scores.remembered(key).value for key in ("same", "early", "other", "stopped")]
    assert found == [9.0, 9.0, 0.25, None]


def test_rungs_when_another_metric_was_compared_then_they_are_left_out(tmp_path: Path) -> None:
    rung = {"progress": 0.5, "compared": 0.5}
    with Ledger.open(tmp_path) as ledger:
        ledger.append(CheckpointRow("early", rung))
        ledger.append(CheckpointRow("same", {**rung, "compared_by": "average.token"}))
        ledger.append(CheckpointRow("other", {**rung, "compared_by": "perplexity.mean"}))
        others = Others(tmp_path, tmp_path / "ledger" / "mine.jsonl")
    history = Ledger.read(tmp_path)
    settled = Settled(history, others, Options(), "average.token")
    told = settled.rungs(["early", "same", "other"])
    assert [row["trial_key"] for row in told] == ["early", "same"]
