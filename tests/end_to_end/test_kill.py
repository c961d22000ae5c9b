"""Nothing that was finished is lost, whoever dies."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
from collections import Counter

import psutil
import pytest

from tests.end_to_end.commands import (
    TIMEOUT_SECONDS,
    Commands,
    assert_agree,
    end,
    wait_until,
    workers,
)

RATES = "[" + ",".join(f"{5e-4 * step:g}" for step in range(1, 21)) + "]"
TWO_SEEDS = (
    "ablation=smoke",
    "backbone=facts_tiny",
    "method=ft_m",
    "protocol.num_edits=4",
    "seeds=[0,1]",
    "workers=2",
)
FORTY = (*TWO_SEEDS, f"axes.method.edit_lr={RATES}")  # 20 rates
TWENTY = tuple("seeds=[0]" if each.startswith("seeds=") else each for each in FORTY)


def test_driver_killed_amid_20_trials_then_the_same_command_finishes_the_rest(
    commands: Commands,
) -> None:
    process = commands.start(*TWENTY)
    try:
        wait_until(lambda: len(commands.ends()) >= 6, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        num_before = len(commands.ends())
        assert num_before < 20

        again = commands.sweep(*TWENTY)
    finally:
        end(process)

    assert again.returncode == 0, again.stderr
    times_ended = Counter(row["fingerprint"] for row in commands.ends())
    assert len(times_ended) == 20
    assert set(times_ended.values()) == {1}
    first, second = commands.segments()
    assert len(first) == num_before
    assert len(second) == 20 - num_before
    assert not list((commands.store / "ray").iterdir())  # nothing of the killed one is left
    assert_agree(commands)


def test_ctrl_c_ends_with_status_130_and_the_command_to_go_on(commands: Commands) -> None:
    process = commands.start(*TWENTY)
    try:
        wait_until(lambda: len(commands.ends()) >= 2, process)
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)

    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    typed = next(line for line in out.splitlines() if "to go on" in line).partition("sweep.py")[2]
    assert shlex.split(typed) == list(TWENTY)
    ends = commands.ends()
    assert 2 <= len(ends) < 20
    assert {row["status"] for row in ends} == {"finished"}
    assert_agree(commands)


def test_ctrl_c_before_the_first_trial_ends_with_status_130(commands: Commands) -> None:
    process = commands.start(*TWENTY)
    try:
        wait_until(lambda: (commands.store / "ledger").is_dir(), process)  # Ray is yet to start
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)

    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert "to go on" in out


def test_worker_killed_amid_a_trial_then_every_trial_finishes(commands: Commands) -> None:
    arguments = (
        "ablation=smoke",
        "backbone=facts_tiny",
        "method=ft_m",
        "axes.method.edit_lr=[1e-4,2e-4]",
        "method.num_steps=300",
        "method.stop_loss=0",
        "workers=2",
    )
    process = commands.start(*arguments)
    try:
        victim = wait_until(lambda: workers(process), process)[0]
        victim.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)

    assert process.returncode == 0, err
    assert not psutil.pid_exists(victim.pid)
    statuses = Counter(row["status"] for row in commands.ends())
    assert statuses == {"finished": 4}
    assert len({row["fingerprint"] for row in commands.ends()}) == 4
    assert_agree(commands)


def test_failing_arms_stand_in_the_table_and_only_failed_ones_are_retried(
    commands: Commands,
) -> None:
    text = commands.folder / "text.txt"
    text.touch()
    arguments = (
        "ablation=smoke",
        "backbone=facts_tiny",
        "axes.method=[no_edit,ft_m,memit]",
        "axes.method.edit_lr=[5e-3,1e37]",  # of ft_m; the second makes the loss NaN
        f"method.covariance_text={text}",  # of memit, which finds it empty
        "seeds=[0,1]",
        "workers=2",
    )
    first = commands.sweep(*arguments)

    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    ends = commands.ends()
    assert Counter((_arm(row), row["status"]) for row in ends) == {
        ("no_edit", "finished"): 2,
        ("ft_m edit_lr=0.005", "finished"): 2,
        ("ft_m edit_lr=1e+37", "diverged"): 2,
        ("memit", "failed"): 2,
    }
    reasons = {row["error"] for row in ends if row["status"] == "failed"}
    assert len(reasons) == 1
    assert f"2 x {reasons.pop()}" in first.stdout  # two trials, one line
    table = {line.split("|")[1].strip(): line for line in _table_lines(first)}
    assert "failed" in table["memit"]
    assert "diverged" in table["ft_m edit_lr=1e+37"]
    assert_agree(commands)

    text.write_text("".join(f"the river of {number} is {number + 1}\n" for number in range(800)))
    retried = commands.sweep(*arguments, "--retry-failed")

    assert retried.returncode == 1, retried.stderr  # what diverged is still there
    later = commands.ends()[len(ends) :]
    assert Counter((_arm(row), row["status"]) for row in later) == {("memit", "finished"): 2}
    assert_agree(commands)


def _arm(row: dict[str, object]) -> object:
    spec = row["spec"]
    assert isinstance(spec, dict)
    return spec["arm"]


def _table_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("|")]


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(20))
def test_driver_killed_at_a_random_moment_then_nothing_is_lost_and_nothing_runs_twice(
    commands: Commands, repetition: int
) -> None:
    six = (*TWO_SEEDS, "axes.method.edit_lr=[1e-3,2e-3,3e-3]")
    process = commands.start(*six)
    try:
        process.communicate(timeout=random.Random(repetition).uniform(1.0, 25.0))
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finally:
        end(process)
    before = {row["fingerprint"] for row in commands.ends()} if commands.store.is_dir() else set()

    again = commands.sweep(*six)

    assert again.returncode == 0, again.stderr
    times_ended = Counter(row["fingerprint"] for row in commands.ends())
    assert before <= set(times_ended)
    assert len(times_ended) == 6
    assert set(times_ended.values()) == {1}
    assert_agree(commands)
