"""A plan of four trials, and ledgers written by hand in which some of them ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.planning import plan
from orchestrator.planning.cell import Cell, Resolved
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings import loading as config
from orchestrator.store.ledger import Ledger
from orchestrator.store.rows import end_row


def made_plan(store: Path) -> plan.Plan:
    """Two arms with two seeds."""
    typed = ["ablation=smoke", "axes.method=[no_edit,ft_m]", "seeds=[0,1]", f"store={store}"]
    return plan.expand(config.load(typed))


def cell(spec: TrialSpec) -> Cell:
    """The trial as a driver would name it."""
    resolved = Resolved("weights", "data", 1)
    return Cell(fingerprint(spec, resolved.identity), spec, resolved)


def written(store: Path, spec: TrialSpec, status: str, **row: Any) -> Cell:
    """One end row in a segment of its own."""
    with Ledger.open(store) as ledger:
        made = cell(spec)
        result = {"status": status, "progress": 1.0, "seconds": 8.0, **row}
        ledger.append(
            end_row(made, result, stop_reason=row.get("rule"), checkpoints=[], provenance={})
        )
    return made
