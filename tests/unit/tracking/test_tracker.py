"""MLflow's mirror of the ledger, on a real SQLite store and a real server."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from analysis.reading.runs import read_records, read_runs
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.rows import LabelledRow
from orchestrator.tracking import mirror
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking.mirror import tracking_uri
from orchestrator.tracking.tracker import Tracker
from tests.mlflow_server import MlflowServer, stopped_server
from tests.unit.deletions import check_deleted_and_back, write_ledger


def row(
    fingerprint: str,
    row_id: str = "r1",
    value: float = 0.5,
    swept: Mapping[str, Any] = MappingProxyType({"method.top_k": 1}),
    **changes: Any,
) -> LabelledRow:
    made = {
        "row_id": row_id,
        "time": 1_700_000_000.0,
        "seconds": 2.0,
        "status": "finished",
        "metrics": {"reliability.token.final": value, "edits_seen": 8, "progress": 1.0},
        "checkpoints": [{"reliability.token.rung": 0.25, "edits_seen": 4, "device": "cpu"}],
    }
    tags = {"arm": f"arm {fingerprint}", "seed": 0, "swept": {"method.top_k": 1}}
    end = EndRow(fingerprint, **{**made, **changes})
    return LabelledRow(end, tags, swept, f"arm {fingerprint} · seed 0")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


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


def test_a_row_that_names_records_elsewhere_then_they_are_not_sent(store: Path) -> None:
    (store / "secret.jsonl").write_text("not for others\n")
    tracker = Tracker(store, "elsewhere")
    tracker.log(row("f1", records="../secret.jsonl"))
    tracker.log(row("f2", records=str(store / "secret.jsonl")))
    tracker.close()
    client = MlflowClient(tracking_uri(store))
    found = runs(store, tracker.experiment_id)
    assert len(found) == 2
    assert [client.list_artifacts(run.info.run_id) for run in found] == [[], []]


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


def test_a_row_is_charted_with_the_averages_of_its_table(store: Path) -> None:
    scores = {"reliability": 0.9, "generality": 0.6, "locality_far": 0.3, "locality_near": 0.0}
    final = {f"{name}.token.final": value for name, value in scores.items()}
    half = {"reliability.exact.final": 0.5, "generality.exact.final": 0.5}  # and no locality
    tracker = Tracker(store, "averaged")
    tracker.log(row("f1", metrics=final | half, spec={"dataset": {"locality": "near"}}))
    tracker.log(row("f2", metrics=final | half))  # a row of a time that said no kind: far
    tracker.close()
    found = {run.data.tags["fingerprint"]: run for run in runs(store, tracker.experiment_id)}
    near, far = (found[name].data.metrics["average.token.final"] for name in ("f1", "f2"))
    assert near == pytest.approx(0.5)  # (0.9 + 0.6 + 0.0) / 3
    assert far == pytest.approx(0.6)  # (0.9 + 0.6 + 0.3) / 3
    assert "average.exact.final" not in found["f1"].data.metrics


def test_the_latest_score_of_rungs_is_the_last_one_though_it_is_not_the_largest(
    store: Path,
) -> None:
    # Within one batch every rung has seen the same edits.
    values = (0.75, 0.5, 0.25)
    rungs = [{"reliability.token.rung": value, "edits_seen": 4} for value in values]
    tracker = Tracker(store, "falling")
    tracker.log(row("f1", status="stopped", checkpoints=rungs, metrics=rungs[-1]))
    tracker.close()
    [run] = runs(store, tracker.experiment_id)
    assert run.data.metrics == {"reliability.token.rung": 0.25}
    name = "reliability.token.rung"
    history = MlflowClient(tracking_uri(store)).get_metric_history(run.info.run_id, name)
    told = sorted(history, key=lambda metric: metric.timestamp)
    assert [metric.value for metric in told] == list(values)  # the last rung, an end too, once
    assert told[-1].timestamp <= run.info.end_time
    rows = read_runs([store], "falling")
    assert rows["metrics"].tolist() == [{name: 0.25}]


def test_the_scores_of_a_trial_that_began_anew_are_those_of_its_last_attempt(store: Path) -> None:
    attempts = [(4, 0.75), (8, 0.5), (4, 0.375)]  # its process was lost behind the second rung
    rungs = [{"reliability.token.rung": value, "edits_seen": seen} for seen, value in attempts]
    tracker = Tracker(store, "anew")
    tracker.log(row("f1", status="stopped", checkpoints=rungs, metrics=rungs[-1]))
    tracker.close()
    [run] = runs(store, tracker.experiment_id)
    assert run.data.metrics == {"reliability.token.rung": 0.375}


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


def test_two_drivers_that_tell_of_the_same_trials_write_each_of_them_once(store: Path) -> None:
    names = [f"f{number}" for number in range(12)]
    both = [Tracker(store, "shared"), Tracker(store, "shared")]
    for tracker, order in zip(both, (names, names[::-1]), strict=True):
        for name in order:
            tracker.log(row(name))
    for tracker in both:
        tracker.close()
    assert [(tracker.failures, tracker.num_unsent) for tracker in both] == [([], 0), ([], 0)]
    standing = runs(store, both[0].experiment_id)
    assert sorted(run.data.tags["fingerprint"] for run in standing) == sorted(names)


def test_what_another_driver_writes_between_two_rows_is_seen(store: Path) -> None:
    one, other = (mirror.Mirror(store, "by turns", "", None) for _ in range(2))
    one.open()
    other.open()
    for name, first, second in (("f1", one, other), ("f2", other, one), ("f3", one, other)):
        first.write(row(name))
        second.write(row(name))
    one.write(row("f4"))
    standing = runs(store, one.experiment_id)
    assert sorted(run.data.tags["fingerprint"] for run in standing) == ["f1", "f2", "f3", "f4"]


def test_a_run_that_was_begun_and_not_ended_is_written_anew(store: Path) -> None:
    first = Tracker(store, "half")
    first.log(row("f1"))
    first.close()
    client = MlflowClient(tracking_uri(store))
    tags = {"fingerprint": "f2", "ledger_row": "r1"}  # a driver was killed behind this line
    client.create_run(first.experiment_id, tags=tags)
    client.create_run(first.experiment_id, tags=tags)
    second = Tracker(store, "half")
    second.log(row("f2"))
    second.close()
    found = {run.data.tags["fingerprint"]: run for run in runs(store, first.experiment_id)}
    assert len(runs(store, first.experiment_id)) == 2
    assert found["f2"].info.status == "FINISHED"
    assert found["f2"].data.metrics["reliability.token.final"] == 0.5


def test_an_older_row_of_a_trial_does_not_take_the_place_of_a_later_one(store: Path) -> None:
    late = Tracker(store, "older")
    late.log(row("f1", row_id="r2", value=0.75, time=1_700_000_001.0))
    late.close()
    early = Tracker(store, "older")
    early.log(row("f1", row_id="r1", value=0.5))
    early.close()
    [run] = runs(store, late.experiment_id)
    assert run.data.tags["ledger_row"] == "r2"
    assert early.num_unsent == 0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[MlflowServer]:
    """Not started yet; with tables, but none of the experiments above."""
    with stopped_server(tmp_path_factory.mktemp("server"), empty_database) as made:
        yield made


def test_a_server_that_does_not_answer_is_given_up_in_time_and_gets_all_when_it_is_there(
    store: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "PATIENCE_SECONDS", 1.0)
        in_vain = Tracker(store, "served", server=server.address)
        for name in ("f1", "f2"):
            in_vain.log(row(name))
        begin = time.monotonic()
        in_vain.close()
    assert time.monotonic() - begin < 30
    assert in_vain.num_unsent == 2
    assert len(in_vain.failures) == 1
    assert server.address.rpartition(":")[2] in in_vain.failures[0]

    (store / "records").mkdir(exist_ok=True)
    line = {
        "record_id": "a",
        "subject": "s",
        "score": "reliability",
        "token": 0.25,
        "when": "final",
    }
    (store / "records" / "served.jsonl").write_text(json.dumps(line) + "\n")
    waiting = Tracker(store, "served", server=server.address)  # asks before the server is there
    for name in ("f1", "f2"):
        waiting.log(row(name, records="served.jsonl"))
    starting = threading.Thread(target=server.start)
    starting.start()
    monkeypatch.setattr(waiting, "_patience", 60.0)
    waiting.close()
    starting.join()
    assert (waiting.num_unsent, waiting.failures) == (0, [])
    client = MlflowClient(server.address)
    standing = list(client.search_runs([waiting.experiment_id]))
    assert sorted(run.data.tags["fingerprint"] for run in standing) == ["f1", "f2"]
    assert len(list(server.artifacts.rglob("served.jsonl"))) == 2

    # As a table reads it: where the store is, and elsewhere.
    gone = store / "elsewhere"
    for folders, is_here in (([store], True), ([gone], False), ([gone, store], True)):
        rows = read_runs(folders, "served", server.address)
        assert set(rows["fingerprint"]) == {"f1", "f2"}
        assert {Path(address).is_file() for address in rows["records"]} == {is_here}
        records = read_records(rows["records"].iloc[0], "facts")
        assert records is not None
        assert records[["score", "token"]].to_numpy().tolist() == [["reliability", 0.25]]
    shutil.rmtree(store / "records")


def test_what_was_deleted_on_a_server_is_missed_and_comes_back(
    tmp_path: Path, server: MlflowServer
) -> None:
    server.start()
    write_ledger(tmp_path)
    check_deleted_and_back(tmp_path, server.address)


def test_a_server_that_is_slow_does_not_hold_the_end_up(store: Path) -> None:
    import socket

    with socket.socket() as silent:  # takes connections and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = Tracker(store, "slow", server=f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker.log(row("f1"))
        begin = time.monotonic()
        tracker.close(most_seconds=2.0)
        assert 2.0 <= time.monotonic() - begin < 5.0
        assert tracker.num_unsent == 1
        assert tracker.failures == ["it answers too slowly"]


def test_the_packages_of_a_row_stand_in_its_experiment_also_where_they_are_many(
    store: Path,
) -> None:
    lines = "".join(f"package{number:04}==1.0\n" for number in range(400))  # 17 signs each
    (store / "packages").mkdir()
    (store / "packages" / "abcd.txt").write_text(lines)
    tracker = Tracker(store, "packages")
    tracker.log(row("f1", provenance={"packages": "abcd"}))
    tracker.log(row("f2", provenance={"packages": "kept by nobody"}))
    tracker.close()
    assert tracker.num_unsent == 0
    tags = MlflowClient(tracking_uri(store)).get_experiment(tracker.experiment_id).tags
    assert len(tags["packages.abcd"]) == 294 * 17  # 5000 // 17 = 294 whole lines
    assert tags["packages.abcd"] + tags["packages.abcd.2"] == lines


def test_a_driver_that_never_ends_what_it_writes_does_not_stop_the_others(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_LOCK_SECONDS", 0.2)
    with FileLock(store / "mlflow.lock"):
        tracker = Tracker(store, "locked")
        tracker.log(row("f1"))
        tracker.close()
        assert tracker.num_unsent == 1
        assert len(tracker.failures) == 1
        assert "another driver" in tracker.failures[0]
    later = Tracker(store, "locked")
    later.log(row("f1"))
    later.close()
    assert later.num_unsent == 0


def test_a_database_that_nobody_touched_is_not_opened_again(store: Path) -> None:
    tracker = Tracker(store, "untouched")
    tracker.log(row("g1"))
    tracker.close()
    again = mirror.Mirror(store, "untouched", "", None)
    assert again.recall()
    assert again.experiment_id == tracker.experiment_id
    assert again.has_row(row("g1"))
    assert not again.has_row(row("g1", "r2"))
    assert not mirror.Mirror(store, "untouched", "", "http://127.0.0.1:9").recall()


def test_what_somebody_took_out_of_the_database_is_written_again(store: Path) -> None:
    first = Tracker(store, "touched")
    first.log(row("h1"))
    first.close()
    [run] = runs(store, first.experiment_id)
    MlflowClient(tracking_uri(store)).delete_run(run.info.run_id)
    assert not mirror.Mirror(store, "touched", "", None).recall()
    second = Tracker(store, "touched")
    second.log(row("h1"))
    second.close()
    assert (second.num_unsent, len(runs(store, first.experiment_id))) == (0, 1)
