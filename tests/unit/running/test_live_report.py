"""`report=live`: a real process that writes the page, and a driver that ends or is killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from analysis.page.live import Live
from orchestrator.planning import plan
from orchestrator.running.live_report import LiveReport
from orchestrator.settings import loading as config
from orchestrator.settings.metrics import compared
from orchestrator.terminal.running_trials import RunningTrial
from orchestrator.terminal.tally import ArmScore, Standing, Tally
from tests.house import ROOT
from tests.unit.deletions import write_ledger
from tests.unit.ended_trials import made_plan

SECONDS = 60


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Path:
    """Four trials in a ledger and in MLflow."""
    from orchestrator.tracking.sync import sync_plan

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    write_ledger(tmp_path)
    sync_plan(made_plan(tmp_path))
    return tmp_path


def wait_for(page: Path, word: str, *, there: bool = True) -> str:
    """The page's text, once it holds the word, or no more."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        text = page.read_text("utf-8") if page.exists() else ""
        if text and (word in text) == there:
            return text
        time.sleep(0.1)
    raise AssertionError(f"{word} in the page after {SECONDS} s: {not there}")


def test_live_then_the_page_follows_the_sweep_and_lasts_when_it_ends(store: Path) -> None:
    page, tally = store / "report.html", Tally(9, compared("average.token"))
    live = LiveReport(store, "smoke", every_seconds=0.0)
    tally.stage("starting Ray")
    live.show(tally.standing())
    text = wait_for(page, "starting Ray")
    assert 'http-equiv="refresh"' in text
    assert "ft_m" in text  # of the trials that ended before
    assert live.close() == ""
    text = page.read_text("utf-8")
    assert "http-equiv" not in text
    assert "ft_m" in text
    assert not [each for each in store.iterdir() if each.name.endswith(".tmp")]


def test_live_when_there_is_nothing_to_run_then_the_page_is_written_all_the_same(
    store: Path,
) -> None:
    assert LiveReport(store, "smoke").close() == ""
    assert "ft_m" in (store / "report.html").read_text("utf-8")


def test_live_when_the_page_cannot_be_written_then_the_end_says_why(tmp_path: Path) -> None:
    assert "no mlflow.db" in LiveReport(tmp_path, "smoke").close()


def test_live_is_told_no_more_often_than_every_so_many_seconds(tmp_path: Path) -> None:
    now = [0.0]
    told: list[str] = []
    live = LiveReport(tmp_path, "smoke", every_seconds=30.0, monotonic=lambda: now[0])
    live._tell = told.append  # type: ignore[method-assign]
    standing = Tally(1, compared("average.token")).standing()
    for now[0] in (0.0, 2.0, 29.9, 30.0, 32.0, 61.0):
        live.show(standing)
    assert len(told) == 3  # at 0, 30 and 61


@given(
    st.builds(
        Standing,
        total=st.integers(0, 9),
        counts=st.dictionaries(st.sampled_from(("finished", "failed")), st.integers(1, 9)),
        seconds=st.floats(0, 1e6),
        left_seconds=st.none() | st.floats(0, 1e6),
        doing=st.text(),
        running=st.lists(st.builds(RunningTrial, st.text(), st.text(), st.text())),
        score=st.text(),
        arms=st.lists(
            st.builds(
                ArmScore,
                st.text(),
                st.floats(0, 1),
                st.none() | st.floats(0, 1),
                st.integers(1, 9),
            )
        ),
        failures=st.lists(st.tuples(st.text(), st.integers(1, 9))),
    )
)
def test_what_the_driver_tells_is_what_the_page_reads(standing: Standing) -> None:
    told: list[str] = []
    live = LiveReport(Path("store"), "smoke")
    live._tell = told.append  # type: ignore[method-assign]
    live.show(standing)
    [line] = told
    assert "\n" not in line
    read = TypeAdapter(Live).validate_json(line)
    assert (read.done, read.total) == (standing.done, standing.total)
    assert [arm.mean for arm in read.arms] == [arm.mean for arm in standing.arms[:20]]
    assert [each.reason for each in read.failures] == [
        each[:400] for each, _ in standing.failures[:20]
    ]
    assert (len(read.running), read.num_running) == (
        min(50, len(standing.running)),
        len(standing.running),
    )


def test_what_the_driver_tells_of_a_cluster_fits_into_a_pipe(tmp_path: Path) -> None:
    trial, arm = RunningTrial("n" * 200, "d" * 60, "1:00:00"), ArmScore("a" * 200, 0.5, 0.1, 3)
    standing = Standing(
        10_000, {}, 1.0, 1.0, "", [trial] * 2000, "average", [arm] * 2000, [("r" * 9999, 1)] * 99
    )
    told: list[str] = []
    live = LiveReport(tmp_path, "smoke")
    live._tell = told.append  # type: ignore[method-assign]
    live.show(standing)
    assert len(told[0]) < 65_536


def test_live_is_no_part_of_what_a_trial_is(tmp_path: Path) -> None:
    typed = ["ablation=smoke", f"store={tmp_path}"]
    plain, live = (
        plan.expand(config.load([*typed, f"report={value}"])) for value in ("none", "live")
    )
    assert [spec.to_dict() for spec in plain.trials] == [spec.to_dict() for spec in live.trials]


KILLED = """
import sys, time
from pathlib import Path
from orchestrator.running.live_report import LiveReport
from orchestrator.settings.metrics import compared
from orchestrator.terminal.tally import Tally
live = LiveReport(Path(sys.argv[1]), "smoke")
tally = Tally(9, compared("average.token"))
tally.stage("running for ever")
live.show(tally.standing())
time.sleep(600)
"""


@pytest.mark.slow
def test_live_when_the_driver_is_killed_then_the_page_loads_itself_no_more(store: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", KILLED, str(store)], cwd=ROOT)
    try:
        wait_for(store / "report.html", "running for ever")
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert "ft_m" in wait_for(store / "report.html", "http-equiv", there=False)
