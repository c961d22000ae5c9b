"""Rows that another process writes into MLflow, on a real SQLite store."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.tracking import apart
from orchestrator.tracking.apart import TrackerProcess, from_json, to_json
from orchestrator.tracking.tracker import Tracker
from tests.unit.tracking.test_tracker import row, runs


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


def test_row_as_json_and_back_is_the_same() -> None:
    made = row("f1", error="ünïcode\nof two lines", metrics={"a": float("inf"), "edits_seen": 3})
    assert from_json(to_json(made)) == made


def test_rows_that_are_logged_become_the_runs_that_a_thread_would_write(store: Path) -> None:
    threaded, separate = Tracker(store, "thread"), TrackerProcess(store, "process", "Does it?")
    for tracker in (threaded, separate):
        for name in ("f1", "f2", "f3"):
            tracker.log(row(name))
        tracker.close()
        assert (tracker.failures, tracker.num_unsent) == ([], 0)
    left, right = (
        sorted((run.info.run_name, run.data.params, run.data.metrics) for run in found)
        for found in (runs(store, threaded.experiment_id), runs(store, separate.experiment_id))
    )
    assert left == right
    assert len(left) == 3


def test_rows_that_mlflow_has_then_no_process_is_started(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = TrackerProcess(store, "again")
    first.log(row("f1"))
    first.close()
    monkeypatch.setattr(sys, "executable", "/nowhere")  # nothing could be
    second = TrackerProcess(store, "again")
    second.log(row("f1"))
    second.close()
    assert (second.failures, second.num_unsent) == ([], 0)
    assert second.experiment_id == first.experiment_id


def test_store_that_cannot_be_opened_then_it_is_warned_of_and_rows_stay_unsent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    tracker = TrackerProcess(tmp_path, "broken")
    tracker.log(row("f1"))
    tracker.close()
    assert tracker.num_unsent == 1
    assert len(tracker.failures) == 1
    assert "results wait in the ledger" in caplog.text


def test_process_that_is_killed_then_the_end_says_so_and_the_next_driver_sends_all(
    store: Path,
) -> None:
    tracker = TrackerProcess(store, "killed")
    tracker.log(row("f1"))
    assert tracker._process is not None
    tracker._process.kill()
    tracker._process.wait()
    tracker.log(row("f2"))
    tracker.close()
    assert tracker.failures == ["the process that writes into it ended with status -9"]
    assert tracker.num_unsent == 2
    later = TrackerProcess(store, "killed")
    for name in ("f1", "f2"):
        later.log(row(name))
    later.close()
    assert (later.failures, later.num_unsent) == ([], 0)
    assert len(runs(store, later.experiment_id)) == 2


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        (
            "filelock.py",  # imported before the first row is read
            "raise RuntimeError('no lock at http://me:hunter22@host, sorry\\nnor elsewhere')",
            "ended with status 1: RuntimeError: no lock at http://***@host, sorry",
        ),
        (
            "mlflow.py",  # imported by the thread that writes, which nothing else ends
            "class Odd(BaseException): pass\nraise Odd('out of luck')",
            "failed: mlflow.Odd: out of luck",
        ),
    ],
)
def test_process_that_fails_as_nobody_expected_then_the_end_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str, said: str
) -> None:
    (tmp_path / module).write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tracker = TrackerProcess(tmp_path / "store", "odd")
    tracker.log(row("f1"))
    tracker.close()
    assert tracker.failures == [f"the process that writes into it {said}"]
    assert tracker.num_unsent == 1


def test_process_that_stands_still_then_the_end_is_not_held_up(store: Path) -> None:
    tracker = TrackerProcess(store, "still")
    tracker.log(row("f1"))
    assert tracker._process is not None
    tracker._process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    tracker.close(most_seconds=1.0)
    assert time.monotonic() - begin < 10
    assert tracker.failures == ["it answers too slowly"]
    assert tracker.num_unsent == 1


@pytest.mark.slow
def test_end_waits_longer_than_for_silence_where_runs_are_still_written(store: Path) -> None:
    tracker = TrackerProcess(store, "many")
    for number in range(400):  # some 20 ms each
        tracker.log(row(f"f{number}"))
    while not num_runs(store):  # MLflow is imported, which takes seconds
        time.sleep(0.05)
    begin = time.monotonic()
    tracker.close(most_seconds=2.0)
    assert time.monotonic() - begin > 2.0
    assert (tracker.failures, tracker.num_unsent) == ([], 0)


@pytest.mark.slow
def test_drivers_that_begin_together_make_one_database(tmp_path: Path) -> None:
    store = tmp_path  # no database is there
    trackers = [TrackerProcess(store, "together") for _ in range(3)]
    for number, tracker in enumerate(trackers):
        tracker.log(row(f"f{number}"))
        tracker.log(row("all"))
    for tracker in trackers:
        tracker.close()
        assert (tracker.failures, tracker.num_unsent) == ([], 0)
    found = [run.data.tags["fingerprint"] for run in runs(store, trackers[0].experiment_id)]
    assert sorted(found) == ["all", "f0", "f1", "f2"]


def num_runs(store: Path) -> int:
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        return int(database.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def test_driver_that_is_killed_then_what_it_had_logged_is_written(store: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path\n"
        f"sys.path.insert(0, {str(apart.ROOT)!r})\n"
        "from orchestrator.tracking.apart import TrackerProcess\n"
        "from tests.unit.tracking.test_tracker import row\n"
        f"tracker = TrackerProcess(Path({str(store)!r}), 'orphan')\n"
        "tracker.log(row('f1'))\n"
        "while tracker._queue.qsize(): time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert ended.returncode == -9
    deadline = time.monotonic() + 60
    later = Tracker(store, "orphan")
    later.close()
    while not runs(store, later.experiment_id) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [run.data.tags["fingerprint"] for run in runs(store, later.experiment_id)] == ["f1"]
