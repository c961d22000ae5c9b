"""End rows of the ledger."""

from __future__ import annotations

from orchestrator.plan import TrialSpec
from orchestrator.rows import Cell, Resolved, end_row

SPEC = TrialSpec(
    ablation="a",
    arm="b",
    seed=0,
    method={"name": "m", "module": "m"},
    backbone={"name": "tiny"},
    dataset={"name": "world"},
    protocol={"kind": "lifelong", "curve": True},
    swept={},
)


def test_end_row_puts_the_curve_behind_the_rungs_and_not_among_the_numbers() -> None:
    cell = Cell("key", SPEC, Resolved("aa", "bb", 1, {"count.excluded": 2.0}))
    rung = {"edits_seen": 4, "reliability.token.rung": 0.5}
    point = {"edits_seen": 2, "reliability.token.curve": 1.0}
    row = {"status": "finished", "progress": 1.0, "curve": [point], "stale_rate": 0.25}
    end = end_row(cell, row, stop_reason=None, checkpoints=[rung], provenance={})
    assert end["checkpoints"] == [rung, point]
    assert end["metrics"] == {"progress": 1.0, "stale_rate": 0.25, "count.excluded": 2.0}
    assert end["stop_reason"] == "completed"
