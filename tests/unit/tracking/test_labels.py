"""Runs that stand in MLflow get the labels that their ablation gives them now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.tracking import mirror
from orchestrator.tracking.tracker import Tracker
from tests.unit.tracking.test_tracker import row, runs, store

__all__ = ["store"]  # a fixture


def test_a_run_gets_the_labels_that_its_ablation_gives_it_now(store: Path) -> None:
    before = Tracker(store, "labels")
    before.log(row("l1"))
    before.log(row("l2"))
    before.close()
    first = row("l1")
    answers = {**first.tags, "paper": "lemoe_table1, lemoe_table7", "arm": "memit_mass"}
    after = Tracker(store, "labels")
    after.log(replace(first, tags=answers))
    after.log(row("l2"))
    after.close()
    found = {run.data.tags["fingerprint"]: run for run in runs(store, before.experiment_id)}
    assert found.keys() == {"l1", "l2"}
    assert found["l1"].data.tags["paper"] == "lemoe_table1, lemoe_table7"
    assert found["l1"].data.tags["arm"] == "memit_mass"
    assert found["l1"].data.metrics["reliability.token.final"] == 0.5
    assert found["l2"].data.tags["arm"] == "arm l2"
    again = mirror.Mirror(store, "labels", "", None)
    assert again.recall()
    assert again.has_row(replace(first, tags=answers))
    assert not again.has_row(first)
