"""What an experiment's page opens on, and the run with the report: real MLflow, real reports."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from analysis.reading.runs import lacking, read_runs
from analysis.reports import table_report
from orchestrator.tracking import summary, view
from orchestrator.tracking.mirror import Mirror, tracking_uri
from orchestrator.tracking.place import Store
from orchestrator.tracking.sync import sync_plan
from tests.mlflow_server import stopped_server
from tests.unit.deletions import ABLATION, delete, write_ledger
from tests.unit.ended_trials import made_plan

TESTED = pytest.mark.skipif(not summary.is_tested(None), reason=f"not MLflow {view.TESTED}")


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Path:
    """Four trials in a ledger and in MLflow."""
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    write_ledger(tmp_path)
    assert sync_plan(made_plan(tmp_path)).num_sent == 4
    return tmp_path


def experiment(store: Store) -> Experiment:
    client = MlflowClient(tracking_uri(store.folder, store.server))
    return client.get_experiment_by_name(ABLATION)


def summaries(store: Store) -> list[Run]:
    client = MlflowClient(tracking_uri(store.folder, store.server))
    number = experiment(store).experiment_id
    return list(client.search_runs([number], filter_string="attributes.run_name = 'summary'"))


@TESTED
def test_summary_then_the_page_has_a_view_a_table_and_one_run_with_report_and_figures(
    store: Path,
) -> None:
    place = Store(store)
    number = experiment(place).experiment_id
    assert "viewStateShareKey" not in summary.page_link(place, number)

    assert summary.summarise(place) == [ABLATION]

    tags = experiment(place).tags
    assert tags[view.TAG].startswith("deflate;")
    [run] = summaries(place)
    question, _, below = tags["mlflow.note.content"].partition("\n")
    assert question.endswith("?")
    assert f"(#/experiments/{number}/runs/{run.info.run_id}/artifacts)" in below
    assert "| ft_m | 0.50" in below
    link = summary.page_link(place, number, "http://here:1")
    assert link.startswith(f"http://here:1/#/experiments/{number}/runs?")
    assert link.endswith("&viewStateShareKey=answer")
    files = MlflowClient(tracking_uri(store)).list_artifacts(run.info.run_id)
    assert [each.path for each in files] == ["report.html", "smoke.md", "smoke.svg"]
    assert run.info.status == "FINISHED"

    assert summary.summarise(place) == []  # nothing is new


def test_summary_is_no_trial_of_any_table_nor_of_a_sync(store: Path) -> None:
    def tables() -> list[str]:
        return [
            str(each) for each in table_report.assemble(ABLATION, table_report.Options((store,)))
        ]

    before, runs = tables(), read_runs([store], ABLATION)
    summary.summarise(Store(store))
    assert tables() == before
    assert read_runs([store], ABLATION).equals(runs)
    assert lacking([store]) == ()
    synced = sync_plan(made_plan(store))
    assert (synced.num_sent, synced.num_unsent, synced.num_other) == (4, 0, 0)
    # An experiment that somebody deleted comes back with its runs, and this one among them.
    delete(store, None)
    assert sync_plan(made_plan(store)).num_sent == 4
    assert read_runs([store], ABLATION)["run_id"].nunique() == 4
    assert len(summaries(Store(store))) == 1


def test_summary_of_new_trials_is_written_into_the_run_that_is_there(store: Path) -> None:
    place = Store(store)
    summary.summarise(place)
    [first] = summaries(place)
    delete_one = MlflowClient(tracking_uri(store)).delete_run
    delete_one(read_runs([store], ABLATION)["run_id"][0])  # as if it had not ended then
    assert summary.summarise(place) == [ABLATION]
    [second] = summaries(place)
    assert second.info.run_id == first.info.run_id
    assert second.data.tags != first.data.tags


def test_a_driver_still_knows_what_mlflow_holds_after_a_view_was_written(store: Path) -> None:
    assert Mirror(store, ABLATION, "", None).recall()
    summary.show(Store(store), ABLATION, [])
    summary.summarise(Store(store))
    assert Mirror(store, ABLATION, "", None).recall()


def test_a_description_that_somebody_wrote_is_kept_above_the_table(store: Path) -> None:
    client, place = MlflowClient(tracking_uri(store)), Store(store)
    number = experiment(place).experiment_id
    client.set_experiment_tag(number, "mlflow.note.content", "Mine.")
    summary.show(place, ABLATION, ["## one\n\n| a |\n|---|\n| 1 |\n"])
    assert experiment(place).tags["mlflow.note.content"].startswith("Mine.\n\n")


def test_no_store_or_no_server_then_the_reason_comes_back_and_the_link_is_plain(
    tmp_path: Path,
) -> None:
    gone = Store(tmp_path / "none", "http://127.0.0.1:9")
    assert summary.try_to_show(gone, ABLATION, []) != ""
    assert summary.try_to_summarise(gone) != ""
    assert "viewStateShareKey" not in summary.page_link(gone, "1")
    assert "viewStateShareKey" not in summary.page_link(Store(tmp_path), "1")


def test_another_mlflow_than_the_tested_one_gets_a_plain_link(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Store(store)
    summary.summarise(place)
    number = experiment(place).experiment_id
    monkeypatch.setattr(view, "TESTED", "0.0.1")
    assert "viewStateShareKey" not in summary.page_link(place, number)
    shown = experiment(place).tags[view.TAG]
    summary.show(place, ABLATION, ["## one\n\n| a |\n|---|\n| 1 |\n"])
    assert experiment(place).tags[view.TAG] == shown  # and no view of a form that it may not know
    assert "| 1 |" in experiment(place).tags["mlflow.note.content"]


@TESTED
@pytest.mark.slow
def test_mlflows_page_on_a_server_opens_on_the_view(store: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian's package chromium)")
    with stopped_server(tmp_path / "server", store / "mlflow.db") as server:
        server.start()
        place = replace(Store(store), server=server.address)
        assert summary.is_tested(server.address)
        assert summary.summarise(place) == [ABLATION]
        assert len(summaries(place)) == 1
        link = summary.page_link(place, experiment(place).experiment_id, server.address)
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=30000"]
        page = subprocess.run(
            [*command, "--window-size=1600,1000", link],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
    assert "You're viewing a shared view" in page
    assert "Group by: arm" in page
    for heading in (view.ANSWER, view.SCORES, view.COST):
        assert heading in page
    assert "Model metrics" not in page.partition("compare-runs-chart-area")[2]  # added by the page
