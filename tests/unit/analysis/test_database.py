"""The store's database, read past MLflow's client, against what that client says."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from analysis.errors import StoreError
from analysis.reading.database import Database
from tests.unit.analysis_store import shared_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that all tests share, with what an MLflow database may also hold."""
    own = tmp_path_factory.mktemp("odd # store")
    shutil.copytree(shared_store(tmp_path_factory), own, dirs_exist_ok=True)
    client = _client(own)
    odd = client.create_experiment("odd")
    run = client.create_run(odd, start_time=7, tags={"paper": "lemoe_table9, lemoe_table8"})
    values = [float("nan"), float("inf"), -0.0, 1e-300]
    metrics = [Metric(f"m{number}", value, 0, 0) for number, value in enumerate(values)]
    # The last by step counts, whatever was logged last.
    metrics += [Metric("again", 2.0, 0, 20), Metric("again", 1.0, 5, 10)]
    client.log_batch(run.info.run_id, metrics=metrics)
    client.create_run(odd, start_time=8)  # neither tag nor metric
    client.delete_run(client.create_run(odd, start_time=9).info.run_id)
    client.delete_experiment(client.create_experiment("deleted"))
    return own


def _client(store: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")


def test_experiments_are_those_of_the_client(store: Path) -> None:
    said = {found.name: found.experiment_id for found in _client(store).search_experiments()}
    assert Database(store).experiments() == said
    assert "odd" in said


@pytest.mark.parametrize("paper", ["", "lemoe_table8"])
def test_runs_are_those_of_the_client_in_its_order(store: Path, paper: str) -> None:
    ids = list(Database(store).experiments().values())
    query = f"tags.paper LIKE '%{paper}%'" if paper else ""
    said = list(_client(store).search_runs(ids, filter_string=query))
    read = Database(store).runs(ids, paper)
    assert [run.run_id for run in read] == [run.info.run_id for run in said]
    assert len(read) > 1
    for one, other in zip(read, said, strict=True):
        assert (one.started, one.artifact_uri) == (other.info.start_time, other.info.artifact_uri)
        assert one.tags == other.data.tags
        assert one.metrics == pytest.approx(other.data.metrics, rel=0, abs=0, nan_ok=True)


def test_runs_when_one_experiment_is_asked_for_then_only_its_own(store: Path) -> None:
    database = Database(store)
    found = database.runs([database.experiments()["odd"]])
    assert [run.started for run in found] == [8, 7]  # the newest first, without the deleted one
    assert math.isnan(found[1].metrics["m0"])
    assert found[1].metrics["again"] == 2.0
    assert database.runs([]) == []


def test_runs_leave_the_database_as_it_was(store: Path) -> None:
    before = (store / "mlflow.db").read_bytes()
    database = Database(store)
    database.runs(list(database.experiments().values()))
    assert (store / "mlflow.db").read_bytes() == before


def test_runs_when_the_tables_are_not_those_of_mlflow_then_says_so(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()  # to SQLite a database without any table
    with pytest.raises(StoreError, match=r"mlflow\.db cannot be read .* no such table"):
        Database(tmp_path).experiments()
