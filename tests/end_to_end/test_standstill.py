"""Whatever becomes of processes and trials, a sweep goes on or says that it stands still."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import (
    TIMEOUT_SECONDS,
    Commands,
    assert_agree,
    end,
    wait_until,
    workers,
)

SMOKE = ("ablation=smoke", "backbone=facts_tiny", "protocol.num_edits=2")
SEARCH = (
    *SMOKE,
    "method=ft_m",
    "method.num_steps=1",
    "plan=search",
    "axes={method.edit_lr:{distribution:loguniform,low:1e-4,high:1e-2}}",
    "seeds=[0]",
)

# Python runs a `sitecustomize` that it finds at the start of every process. This one changes a
# module of the project in Ray's workers, as soon as it is imported.
CHANGED = """
import importlib.abc
import importlib.util
import sys

class Changed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != {name!r} or not any("default_worker" in each for each in sys.orig_argv):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            exec({code!r}, module.__dict__)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Changed())
"""
LEAKS = "METHOD.remove = lambda self: None"
DECLINES = """
def reset_config(self, config, take=EditTrial.reset_config):
    self.num_taken = getattr(self, "num_taken", 0) + 1
    return take(self, config) and self.num_taken % 3 != 0

EditTrial.reset_config = reset_config
"""


def changed(commands: Commands, tmp_path: Path, name: str, code: str) -> Commands:
    """The commands, with a module that runs `code` at its end."""
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CHANGED.format(name=name, code=code))
    return replace(commands, variables={"PYTHONPATH": str(folder)})


def assert_each_ended_once(commands: Commands, num_trials: int) -> None:
    times_ended = Counter(row["fingerprint"] for row in commands.ends())
    assert len(times_ended) == num_trials
    assert set(times_ended.values()) == {1}
    assert Counter(row["status"] for row in commands.ends()) == {"finished": num_trials}
    assert_agree(commands)


@pytest.mark.slow
def test_search_when_processes_have_done_their_share_then_others_take_their_place(
    commands: Commands,
) -> None:
    done = commands.sweep(*SEARCH, "num_trials=8", "workers=1", "max_trials_per_process=3")
    assert done.returncode == 0, done.stderr
    assert_each_ended_once(commands, 8)


@pytest.mark.slow
def test_search_of_more_trials_than_a_process_runs_comes_to_its_end(commands: Commands) -> None:
    done = commands.sweep(*SEARCH, "num_trials=505", "workers=2")
    assert done.returncode == 0, done.stderr
    assert_each_ended_once(commands, 505)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_method_that_leaks_among_healthy_ones_costs_processes_and_no_trial(
    commands: Commands, tmp_path: Path, num_workers: int
) -> None:
    leaking = changed(commands, tmp_path, "trainables.methods.ft", LEAKS)
    done = leaking.sweep(
        *SMOKE, "axes.method=[no_edit,ft_m]", "seeds=[0,1,2]", f"workers={num_workers}"
    )
    assert done.returncode == 0, done.stderr
    assert_each_ended_once(leaking, 6)
    said = re.findall(r"method=(\w+) did not restore the backbone \('model", done.stderr)
    assert said == ["ft_m"]


@pytest.mark.slow
def test_trial_that_tune_loses_without_a_word_is_run_again(
    commands: Commands, tmp_path: Path
) -> None:
    losing = changed(commands, tmp_path, "trainables.trials.ray_trial", DECLINES)
    done = losing.sweep(*SMOKE, "axes.method=[no_edit]", "seeds=[0,1,2,3,4,5]", "workers=2")
    assert done.returncode == 0, done.stderr
    assert_each_ended_once(losing, 6)


@pytest.mark.slow
def test_search_that_tune_loses_a_trial_of_is_left_at_once_by_ctrl_c(
    commands: Commands, tmp_path: Path
) -> None:
    losing = changed(commands, tmp_path, "trainables.trials.ray_trial", DECLINES)
    process = losing.start(*SEARCH, "num_trials=9", "workers=1")
    try:
        wait_until(lambda: len(losing.ends()) == 3, process)
        wait_until(lambda: not workers(process), process)  # the fourth was declined
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        end(process)
    assert process.returncode == 130, err
    assert "to go on" in out


@pytest.fixture
def busy_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose only CPU somebody else holds."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        ray.init(address=made.address, log_to_driver=False)
        held = ray.util.placement_group([{"CPU": 1}])
        ray.get(held.ready(), timeout=TIMEOUT_SECONDS)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_sweep_that_gets_no_cpu_ends_with_one_line_and_the_command_to_go_on(
    commands: Commands, busy_cluster: Any
) -> None:
    typed = (*SMOKE, "axes.method=[no_edit]", "seeds=[0]", f"cluster={busy_cluster.address}")
    done = commands.sweep(*typed, "max_silent_seconds=3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert said[0].startswith(
        "error: nothing has moved for max_silent_seconds=3 (trials: 1 pending); to go on: python "
    )
    assert "max_silent_seconds=3" in said[0].partition("to go on")[2]
    assert commands.ends() == []
