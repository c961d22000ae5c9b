"""Writes a whole ledger to MLflow again, as during the sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import LedgerError
from orchestrator.planning.plan import Plan
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.store.copies import Copies
from orchestrator.store.ledger import FOLDER, Ledger, check_store
from orchestrator.store.rows import labelled
from orchestrator.store.settled import ended, is_of
from orchestrator.tracking.tracker import Tracker


@dataclass(frozen=True)
class Synced:
    """How many rows of a plan are in MLflow.

    Attributes:
        num_sent: Rows that are in MLflow.
        num_unsent: Rows that are not.
        reasons: Why rows could not be sent.
        num_other: Trials of the ablation in the ledger that are not in the plan as it was typed.
    """

    num_sent: int
    num_unsent: int
    reasons: tuple[str, ...]
    num_other: int = 0


def sync_plan(plan: Plan) -> Synced:
    """Write every ended trial of a plan into its experiment, also those that only copies hold.

    Raises:
        LedgerError: If the store is not there, no sweep has run in it, or its ledger cannot be
            read.
        UsageError: If its copies cannot be read or written.
    """
    config = plan.config
    store = Path(config.store).resolve()
    copies = Copies(store, config.copies) if config.copies else None
    if copies is not None:
        copies.fetch()
    check_store(config.store)
    history = Ledger.read(config.store)
    if not (store / FOLDER).is_dir():
        raise LedgerError(f"store={config.store}: no sweep has run there; run one with this store")
    if copies is not None:
        copies.send()
    pairs = list(zip(plan.trials, ended(plan.trials, history), strict=True))
    if plan.is_search:
        searched = [end for end in history.ends.values() if is_of(end, config.ablation)]
        pairs = [(TrialSpec.from_dict(end.spec), end) for end in searched]
    tracker = Tracker(store, config.ablation, config.question, config.mlflow)
    rows = [labelled(end, spec, config) for spec, end in pairs if end is not None]
    for row in rows:
        tracker.log(row)
    tracker.close(most_seconds=None)
    reasons = tuple(dict.fromkeys(tracker.failures))
    mine = {row.end.fingerprint for row in rows}
    others = {key for key, end in history.ends.items() if is_of(end, config.ablation)} - mine
    return Synced(len(rows) - tracker.num_unsent, tracker.num_unsent, reasons, len(others))
