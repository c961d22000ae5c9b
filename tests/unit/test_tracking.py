"""MLflow's mirror of the ledger, on a real SQLite store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.tracking import Tracker, chart_link, tracking_uri


def row(fingerprint: str, row_id: str = "r1", value: float = 0.5, **changes: Any) -> dict[str, Any]:
    made = {
        "fingerprint": fingerprint,
        "row_id": row_id,
        "time": 1_700_000_000.0,
        "seconds": 2.0,
        "status": "finished",
        "records": None,
        "run_name": f"arm {fingerprint} · seed 0",
        "tags": {"arm": f"arm {fingerprint}", "seed": 0, "swept": {"method.top_k": 1}},
        "swept": {"method.top_k": 1},
        "metrics": {"reliability.token.final": value, "edits_seen": 8, "progress": 1.0},
        "checkpoints": [{"reliability.token.rung": 0.25, "edits_seen": 4, "device": "cpu"}],
    }
    return {**made, **changes}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def runs(store: Path, experiment_id: str) -> list[Any]:
    return list(MlflowClient(tracking_uri(store)).search_runs([experiment_id]))


def test_a_row_becomes_a_flat_run_with_swept_params_only(store: Path) -> None:
    (store / "records").mkdir()
    (store / "records" / "abc.jsonl").write_text('{"record_id": "a"}\n')
    tracker = Tracker(store, "flat", "Does it?")
    tracker.log(row("f1", records="abc.jsonl"))
    tracker.close()
    assert tracker.failures == []
    [run] = runs(store, tracker.experiment_id)
    assert run.info.run_name == "arm f1 · seed 0"
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 2000
    assert run.data.params == {"method.top_k": "1"}
    assert run.data.metrics == {"reliability.token.final": 0.5, "reliability.token.rung": 0.25}
    assert run.data.tags["seed"] == "0"
    assert run.data.tags["swept"] == '{"method.top_k": 1}'
    assert run.data.tags["records"] == "abc.jsonl"
    client = MlflowClient(tracking_uri(store))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["abc.jsonl"]
    history = client.get_metric_history(run.info.run_id, "reliability.token.final")
    assert [metric.step for metric in history] == [8]  # edits seen


def test_the_same_row_again_changes_nothing_and_a_newer_one_takes_its_place(store: Path) -> None:
    tracker = Tracker(store, "again")
    tracker.log(row("f1"))
    tracker.log(row("f1"))
    tracker.close()
    [before] = runs(store, tracker.experiment_id)
    later = Tracker(store, "again")
    later.log(row("f1"))
    later.close()
    [same] = runs(store, later.experiment_id)
    assert same.info.run_id == before.info.run_id
    last = Tracker(store, "again")
    last.log(row("f1", row_id="r2", value=0.75))
    last.close()
    [run] = runs(store, last.experiment_id)
    assert run.data.metrics["reliability.token.final"] == 0.75


def test_a_failed_trial_is_marked_failed(store: Path) -> None:
    tracker = Tracker(store, "failed")
    tracker.log(row("f1", status="failed", metrics={}, checkpoints=[]))
    tracker.close()
    assert [run.info.status for run in runs(store, tracker.experiment_id)] == ["FAILED"]


def test_a_row_that_cannot_be_written_does_not_stop_the_others(store: Path) -> None:
    tracker = Tracker(store, "broken")
    tracker.log(row("f1", swept={"a parameter with a bad name \n%": 1}))
    tracker.log(row("f2"))
    tracker.close()
    assert len(tracker.failures) == 1
    names = {run.data.tags["fingerprint"] for run in runs(store, tracker.experiment_id)}
    assert "f2" in names


def test_a_store_that_cannot_be_opened_is_reported_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, " * 100)
    tracker = Tracker(tmp_path, "any")
    tracker.log(row("f1"))
    tracker.close()
    assert len(tracker.failures) == 1
    assert "file is not a database" in tracker.failures[0]
    assert tracker.experiment_id == ""


def test_chart_link_opens_the_charts_of_the_experiment() -> None:
    link = chart_link("7", 5001)
    assert link.startswith("http://127.0.0.1:5001/#/experiments/7/runs?")
    assert "compareRunsMode=CHART" in link


def test_a_curve_becomes_steps_of_one_metric(store: Path) -> None:
    curve = [{"edits_seen": n, "reliability.token.curve": value} for n, value in ((4, 1), (8, 0.5))]
    tracker = Tracker(store, "curve")
    tracker.log(row("f1", checkpoints=curve))
    tracker.close()
    [run] = runs(store, tracker.experiment_id)
    history = MlflowClient(tracking_uri(store)).get_metric_history(
        run.info.run_id, "reliability.token.curve"
    )
    assert sorted((metric.step, metric.value) for metric in history) == [(4, 1.0), (8, 0.5)]
