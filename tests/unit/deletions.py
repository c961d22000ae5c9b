"""Trials in a ledger, and what becomes of their runs when somebody deletes those in MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient

from analysis.reading.runs import Lacking, lacking, read_runs
from orchestrator.store.ledger import Ledger
from orchestrator.store.rows import end_row
from orchestrator.tracking.mirror import tracking_uri
from orchestrator.tracking.sync import sync_plan
from tests.unit.ended_trials import cell, made_plan

ABLATION = "smoke"
SCORES = {f"{name}.token.final": 0.5 for name in ("reliability", "generality", "locality_far")}


def write_ledger(store: Path) -> None:
    with Ledger.open(store) as ledger:
        for spec in made_plan(store).trials:
            result = {"status": "finished", "progress": 1.0, "seconds": 8.0, **SCORES}
            made = cell(spec)
            ledger.append(end_row(made, result, stop_reason=None, checkpoints=[], provenance={}))


def delete(store: Path, server: str | None, *, num_runs: int | None = None) -> None:
    """Delete so many runs, as MLflow's pages do; None: the experiment."""
    client = MlflowClient(tracking_uri(store, server))
    experiment_id = client.get_experiment_by_name(ABLATION).experiment_id
    if num_runs is None:
        client.delete_experiment(experiment_id)
    for run in list(client.search_runs([experiment_id]))[: num_runs or 0]:
        client.delete_run(run.info.run_id)


def check_deleted_and_back(store: Path, server: str | None) -> None:
    """Of a ledger of four trials, and MLflow without any."""
    made = made_plan(store)
    made = replace(made, config=made.config.model_copy(update={"mlflow": server}))
    assert lacking([store], server) == (Lacking(store, ABLATION, 4),)
    assert sync_plan(made).num_sent == 4
    assert lacking([store], server) == ()
    for num_runs, left in ((1, 3), (None, 0)):
        delete(store, server, num_runs=num_runs)
        assert lacking([store], server) == (Lacking(store, ABLATION, 4 - left),)
        synced = sync_plan(made)
        assert (synced.num_sent, synced.num_unsent, synced.num_other) == (4, 0, 0)
        assert lacking([store], server) == ()
        # Nor are there two of any, though the experiment brings the deleted run back, too.
        assert read_runs([store], ABLATION, server)["run_id"].nunique() == 4
