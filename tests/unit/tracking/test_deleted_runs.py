"""What was deleted in MLflow: the table says so, and a sync brings it back; real MLflow."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.errors import StoreError
from analysis.reading.runs import Lacking, lacking, lacking_line, read_runs
from analysis.reports import table_report as assemble
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from orchestrator.tracking.mirror import tracking_uri
from orchestrator.tracking.sync import sync_plan
from orchestrator.tracking.tracker import Tracker
from tests.unit.deletions import ABLATION, check_deleted_and_back, delete, write_ledger
from tests.unit.ended_trials import made_plan
from tests.unit.tracking.test_tracker import row


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Path:
    """A ledger of four trials and MLflow's empty tables."""
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    write_ledger(tmp_path)
    return tmp_path


def test_runs_and_experiments_that_were_deleted_are_missed_and_come_back(store: Path) -> None:
    check_deleted_and_back(store, None)


def test_a_table_says_what_the_ledger_has_and_mlflow_lacks_and_how_to_send_it(store: Path) -> None:
    sync_plan(made_plan(store))
    [whole] = assemble.assemble(ABLATION, assemble.Options((store,)))
    assert not any("lacks" in line for line in whole.footer)
    delete(store, None, num_runs=1)
    [part] = assemble.assemble(ABLATION, assemble.Options((store,)))
    remedy = f"python orchestrator/sweep.py --sync ablation=smoke store={store}"
    assert part.footer[-1].startswith(
        f"MLflow lacks 1 trials of smoke that the ledger has; to send them: {remedy}"
    )
    delete(store, None)
    with pytest.raises(StoreError, match=rf"MLflow lacks 4 trials of smoke .* {remedy}"):
        assemble.assemble(ABLATION, assemble.Options((store,)))
    with pytest.raises(StoreError, match=r"no runs for 'lemoe_table9' .* MLflow lacks 4 trials"):
        assemble.assemble("lemoe_table9", assemble.Options((store,)))


def test_runs_of_others_in_a_restored_experiment_are_left(store: Path) -> None:
    sync_plan(made_plan(store))
    client = MlflowClient(tracking_uri(store))
    experiment_id = client.get_experiment_by_name(ABLATION).experiment_id
    mine = {client.create_run(experiment_id, tags={"mine": "yes"}).info.run_id for _ in range(2)}
    delete(store, None)
    sync_plan(made_plan(store))
    found = {run.info.run_id for run in client.search_runs([experiment_id])}
    assert mine <= found
    assert len(found) == 6


def test_a_run_that_is_deleted_while_a_sweep_ends_is_not_noted_as_there(store: Path) -> None:
    tracker = Tracker(store, ABLATION)
    tracker.log(row("f1"))
    tracker.log(row("f2"))
    remember = tracker._mirror.remember

    def deleted_before() -> None:
        delete(store, None, num_runs=1)
        remember()

    tracker._mirror.remember = deleted_before  # type: ignore[method-assign]
    tracker.close()
    again = Tracker(store, ABLATION)
    again.log(row("f1"))
    again.log(row("f2"))
    again.close()
    assert set(read_runs([store], ABLATION)["fingerprint"]) == {"f1", "f2"}


def test_a_sync_says_how_many_trials_of_the_ablation_its_plan_does_not_hold(store: Path) -> None:
    fewer = ["ablation=smoke", "axes.method=[no_edit]", "seeds=[0]", f"store={store}"]
    synced = sync_plan(plan.expand(config.load(fewer)))
    assert (synced.num_sent, synced.num_other) == (1, 3)


def test_a_newer_result_that_mlflow_lacks_is_counted(store: Path) -> None:
    sync_plan(made_plan(store))
    write_ledger(store)  # the same trials again
    assert lacking([store]) == (Lacking(store, ABLATION, 4),)


@pytest.mark.parametrize("name", ["plain", "a b", "a%20b?c#d ü"])
def test_the_remedy_of_a_table_names_the_store_as_the_command_reads_it(name: str) -> None:
    line = lacking_line(Lacking(Path("/sweeps") / name, ABLATION, 2))
    words = shlex.split(line.partition("to send them: ")[2].partition(", with")[0])
    assert words[:3] == ["python", "orchestrator/sweep.py", "--sync"]
    assert config.load(words[3:]).store == f"/sweeps/{name}"
