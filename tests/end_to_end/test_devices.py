"""Trials compute where Ray put them, whatever else the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import Commands, assert_agree

SMOKE = ("ablation=smoke", "backbone=facts_tiny", "axes.method=[no_edit,ft_m]", "seeds=[0]")

# Run at the start of every process, the driver's too: torch believes that it has a GPU.
HAS_GPU = """
import importlib.abc
import importlib.util
import sys

class Changed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(torch):
            run(torch)
            torch.cuda.is_available = lambda: True
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Changed())
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def gpu_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A node of two CPUs that says it has two GPUs."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2})
    try:
        yield made
    finally:
        made.shutdown()


@pytest.mark.parametrize("more", [(), ("parallel=data", "gpus_per_trial=2")])
def test_trials_planned_for_the_cpu_stay_there_though_torch_has_a_gpu(
    commands: Commands, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """A build without CUDA raises at the first `.cuda()`, and has no NCCL for ranks."""
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "sitecustomize.py").write_text(HAS_GPU)
    seeing = replace(commands, variables={"PYTHONPATH": str(tmp_path / "changed")})
    done = seeing.sweep(*SMOKE, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(row["status"], row["device"]) for row in seeing.ends()] == [("finished", "cpu")] * 2
    assert not [row for row in seeing.ends() if "peak_gpu_gib" in row["metrics"]]


def test_trials_that_get_gpus_of_which_torch_knows_nothing_run_on_the_cpu_and_say_so(
    commands: Commands, gpu_cluster: Any
) -> None:
    there = f"cluster={gpu_cluster.address}"
    done = commands.sweep(*SMOKE, there, "backbone.memory_gib=1")  # worth a share of a GPU
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(row["status"], row["device"]) for row in commands.ends()] == [("finished", "cpu")] * 2
    said = [line for line in done.stderr.splitlines() if "torch cannot use there" in line]
    assert len(said) == 1
    assert_agree(commands)
