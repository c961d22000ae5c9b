"""A sweep on a cluster of several nodes, which here are processes of one machine."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import TIMEOUT_SECONDS, Commands, assert_agree, end, wait_until
from tests.unit.file_trials import spec

SWEEP = (
    "ablation=smoke",
    "backbone=facts_tiny",
    "method=ft_m",
    "axes.method.edit_lr=[1e-4,2e-4,3e-4,4e-4,5e-4,6e-4,7e-4,8e-4]",
    "protocol.num_edits=4",
)
SEEDS = "seeds=[0,1,2]"

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, as in cluster.yaml, and two nodes of one CPU."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    try:
        yield made
    finally:
        made.shutdown()


def test_node_removed_amid_a_sweep_then_every_trial_ends_once(
    commands: Commands, cluster: Any
) -> None:
    process = commands.start(*SWEEP, SEEDS, f"cluster={cluster.address}")
    try:
        wait_until(lambda: len(commands.ends()) >= 6, process)
        cluster.remove_node(cluster.workers[0], allow_graceful=False)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)

    assert process.returncode == 0, err
    times_ended = Counter(row["fingerprint"] for row in commands.ends())
    assert len(times_ended) == 24
    assert set(times_ended.values()) == {1}
    assert {row["status"] for row in commands.ends()} == {"finished"}
    assert_agree(commands)


def other_transformers(folder: Path) -> None:
    """What makes the library pass for another version of itself."""
    (folder / "transformers-0.0.1.dist-info").mkdir()
    metadata = folder / "transformers-0.0.1.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")


def no_project(folder: Path) -> None:
    """What hides both packages, as if they were not installed."""
    for name in ("orchestrator", "trainables"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here')\n")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (other_transformers, r"transformers version is 0\.0\.1 there"),
        (no_project, r"this project cannot be run there"),
    ],
)
def test_node_that_comes_later_and_is_unfit_is_named_and_left_out(
    commands: Commands, cluster: Any, tmp_path: Path, spoil: Any, problem: str
) -> None:
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    spoil(spoilt)
    cluster.remove_node(cluster.workers.pop())
    # Long enough for a node to come meanwhile and to get a trial; `workers` lets it have one.
    long = ("seeds=[0]", "method.num_steps=1200", "method.stop_loss=1e-9", "workers=3")
    process = commands.start(*SWEEP, *long, f"cluster={cluster.address}")
    try:
        wait_until(lambda: len(commands.ends()) >= 1, process)
        cluster.add_node(num_cpus=2, env_vars={"PYTHONPATH": str(spoilt)})
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)

    assert process.returncode == 0, out + err
    assert len(re.findall(problem, err)) == 1, err
    times_ended = Counter(row["fingerprint"] for row in commands.ends())
    assert len(times_ended) == 8
    assert set(times_ended.values()) == {1}
    assert {row["status"] for row in commands.ends()} == {"finished"}
    assert_agree(commands)


def test_node_without_the_store_is_named(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.running.cluster import set_environment
    from orchestrator.running.nodes import Demands, Nodes

    set_environment(cluster.address)
    import ray

    monkeypatch.chdir(tmp_path)  # after the nodes have started
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        shared = Nodes(Demands.of_this_process(tmp_path, tmp_path))
        shared.look()
        assert shared.unfit == {}
        # Another folder for every process.
        own = Nodes(Demands.of_this_process(Path("/proc/self/cwd"), Path("/proc/self/cwd")))
        own.look()
        assert len(own.unfit) == 3
        message = r"node .*: store=/proc/self/cwd is not the same folder there"
        assert all(re.fullmatch(message + ".*", line) for line in own.unfit.values())
    finally:
        ray.shutdown()


def test_rank_on_an_unfit_node_then_the_trial_says_so_and_keeps_its_state(
    cluster: Any, tmp_path: Path
) -> None:
    from orchestrator.running.cluster import set_environment

    set_environment(cluster.address)
    import ray
    from ray import tune
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from trainables.trials.ray_trial import EditTrial
    from trainables.trials.run import Runtime

    def problems() -> list[str]:
        is_rank = "_RankActor" in Path("/proc/self/cmdline").read_text()
        return ["node old: too old", "node old: too small"] if is_rank else []

    runtime = Runtime(cache=tmp_path, store=tmp_path, num_ranks=2, problems=problems)
    runtime.state_path("key").parent.mkdir()
    runtime.state_path("key").write_text("of an earlier attempt")
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        group = ray.util.placement_group([{"CPU": 1}] * 2)  # one on each node
        told = spec(tmp_path, "zsre", None)  # never opened: a rank refuses before
        made = tune.with_parameters(EditTrial, plan={"key": told}, runtime=runtime)
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        trial = ray.remote(made).options(num_cpus=1, scheduling_strategy=place)
        result = ray.get(trial.remote({"trial_key": "key"}).step.remote())
        nodes = ray.util.placement_group_table(group)["bundles_to_node_id"]
    finally:
        ray.shutdown()
    row = json.loads(result["row"])
    assert (row["status"], row["error"]) == ("unfit", "node old: too old; node old: too small")
    assert row["node"] == nodes[1]
    assert result["done"]
    assert runtime.state_path("key").read_text() == "of an earlier attempt"
