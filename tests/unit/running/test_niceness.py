"""How Ray's workers stand beside others of the machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import sweep
from orchestrator.errors import UsageError
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.plan import expand
from orchestrator.running.cluster import set_environment
from orchestrator.settings import loading as config

ROOT = Path(__file__).resolve().parents[3]
_OF_A_WORKER = """
import os
from orchestrator.running.cluster import running_ray, set_environment
set_environment("local", {niceness})
import ray
with running_ray("local", 1):
    print("nice", ray.get(ray.remote(lambda: os.nice(0)).remote()))
"""


@pytest.mark.parametrize("niceness", [0, pytest.param(7, marks=pytest.mark.slow)])
def test_running_ray_when_a_niceness_is_given_then_its_workers_have_it(niceness: int) -> None:
    inherited = {k: v for k, v in os.environ.items() if k != "RAY_worker_niceness"}
    shown = subprocess.run(
        [sys.executable, "-c", _OF_A_WORKER.format(niceness=niceness)],
        cwd=ROOT,
        env=inherited,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"nice {max(niceness, os.nice(0))}\n" in shown


def test_set_environment_when_the_user_has_set_the_variable_then_only_a_typed_key_beats_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "RAY_worker_niceness"
    monkeypatch.setattr(os, "environ", {**os.environ, name: "12"})
    set_environment("local")
    assert os.environ[name] == "12"
    set_environment("local", 14)
    assert os.environ[name] == "14"


def test_niceness_when_the_cluster_runs_already_then_a_dry_run_too_says_who_decides(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert config.load(["ablation=smoke", "cluster=auto"]).niceness == 0
    assert config.load(["ablation=smoke", "niceness=5"]).niceness == 5
    assert sweep.main(["ablation=smoke", "niceness=5", "cluster=auto", "--dry-run"]) == 2
    assert re.fullmatch(
        r"error: niceness=5: .* cluster=auto .*RAY_worker_niceness=5.*\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("typed", ["20", "-1", "1.5"])
def test_load_when_a_niceness_is_out_of_range_then_it_is_named(typed: str) -> None:
    with pytest.raises(UsageError, match=f"niceness={typed}"):
        config.load(["ablation=smoke", f"niceness={typed}"])


def test_niceness_is_no_part_of_a_trial() -> None:
    plain, nice = (
        expand(config.load(["ablation=smoke", f"niceness={typed}"])).trials[0] for typed in (0, 9)
    )
    assert fingerprint(plain, {}) == fingerprint(nice, {})
