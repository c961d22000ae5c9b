"""A trial that hangs: in Python, and outside of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainables.errors import TrialOverdueError
from trainables.trials.time_limit import TimeLimit


def test_limit_when_python_code_hangs_then_raises_what_was_typed(tmp_path: Path) -> None:
    def hang() -> None:
        while True:
            pass

    before = signal.getsignal(signal.SIGALRM)
    with (
        pytest.raises(TrialOverdueError, match=r"^took longer than max_trial_seconds=0.05$"),
        TimeLimit(0.05, 0.0, tmp_path / "overdue"),
    ):
        hang()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_limit_counts_what_earlier_steps_took(tmp_path: Path) -> None:
    waiting = threading.Event()
    with (
        pytest.raises(TrialOverdueError),
        TimeLimit(100.0, 99.99, tmp_path / "overdue"),
    ):
        waiting.wait(60)


def test_limit_when_the_time_is_up_while_the_clock_is_started_then_nothing_ends_the_process_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Timer.start

    def slow(timer: threading.Timer) -> None:  # as on a machine that has other things to do
        start(timer)
        time.sleep(0.02)

    monkeypatch.setattr(threading.Timer, "start", slow)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TrialOverdueError), TimeLimit(100.0, 99.999, tmp_path / "overdue"):
        threading.Event().wait(60)
    assert signal.getsignal(signal.SIGALRM) is before
    assert not any(
        isinstance(each, threading.Timer) and not each.finished.is_set()
        for each in threading.enumerate()
    )


def test_limit_when_there_is_time_then_changes_nothing(tmp_path: Path) -> None:
    for limit in (None, 60.0):
        with TimeLimit(limit, 0.0, tmp_path / "overdue"):
            assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (limit is not None)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert not list(tmp_path.iterdir())


def test_limit_when_code_never_comes_back_then_the_process_ends_and_is_not_begun_anew(
    tmp_path: Path,
) -> None:
    marker = tmp_path / "states" / "overdue"
    script = f"""
import signal, threading
from pathlib import Path
from trainables.trials import time_limit
time_limit.GRACE_SECONDS = 0.05
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as code outside Python would
with time_limit.TimeLimit(0.05, 0.0, Path({str(marker)!r})):
    threading.Event().wait(60)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == 1
    assert marker.exists()
    with pytest.raises(TrialOverdueError), TimeLimit(60.0, 0.0, marker):
        pytest.fail("must not begin")
