"""Runs that stand in MLflow get the labels that their ablation gives them now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analysis.aggregate import sections
from analysis.reading.runs import read_runs
from orchestrator.planning import plan
from orchestrator.planning.cell import Cell, Resolved
from orchestrator.planning.identity import fingerprint
from orchestrator.settings import loading as config
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.rows import end_row, labelled
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


def told(store: Path, ablation: str, *typed: str) -> None:
    """As a driver: every trial of the plan, with the same end each time, is told."""
    made = plan.expand(config.load([*typed, f"store={store}"]))
    tracker = Tracker(store, ablation)
    for spec in made.trials:
        cell = Cell(fingerprint(spec, RESOLVED.identity), spec, RESOLVED)
        tracker.log(labelled(ENDS.setdefault(cell.key, ended(cell)), spec, made.config))
    tracker.close()
    assert tracker.failures == []


def ended(cell: Cell) -> EndRow:
    row = {"status": "finished", "seconds": 0.5, "progress": 1.0, "device": "cpu"}
    # Its value says which setting it is of.
    row["reliability.token.final"] = float(cell.spec.method["edit_lr"])
    told = {"stop_reason": None, "checkpoints": [], "provenance": {"commit": "c"}}
    return end_row(cell, row, **told)


RESOLVED = Resolved("weights", "data", 1)
ENDS: dict[str, EndRow] = {}
SETTING = ("ablation=lemoe_layers", "axes.method.edit_layer=[8]", "seeds=[0,1]")


def test_a_setting_that_is_typed_again_counts_though_another_was_typed_in_between(
    store: Path,
) -> None:
    own = float(plan.expand(config.load([*SETTING])).trials[0].method["edit_lr"])
    for typed, shown in ((SETTING, own), ((*SETTING, "method.edit_lr=0.5"), 0.5), (SETTING, own)):
        told(store, "lemoe_layers", *typed)
        (section,) = sections(read_runs((store,), "lemoe_layers"))
        (arm,) = section.arms
        assert arm.scores["reliability"].mean == shown
        assert arm.seeds == (0, 1)
    assert section.num_superseded == 2
    again = mirror.Mirror(store, "lemoe_layers", "", None)
    assert again.recall()  # and nothing is left to write for it


def test_a_grid_typed_after_one_of_its_cells_gives_that_its_published_place(store: Path) -> None:
    def published() -> set[str]:
        found = read_runs((store,), "lemoe_layers")
        return {
            str(row["published"]) for _, row in found.iterrows() if row["arm"] == "edit_layer=4"
        }

    told(store, "lemoe_layers", "ablation=lemoe_layers", "method.edit_layer=4", "seeds=[0]")
    assert published() == {"{}"}
    told(store, "lemoe_layers", "ablation=lemoe_layers", "seeds=[0]")
    assert published() == {'{"method.edit_layer": [8]}'}
    told(store, "lemoe_layers", "ablation=lemoe_layers", "method.edit_layer=4", "seeds=[0]")
    assert published() == {'{"method.edit_layer": [8]}'}
