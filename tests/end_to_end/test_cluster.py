"""A sweep on a cluster of several nodes, which here are processes of one machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import TIMEOUT_SECONDS, Commands, assert_agree, end, wait_until

SWEEP = (
    "ablation=smoke",
    "backbone=facts_tiny",
    "method=ft_m",
    "axes.method.edit_lr=[1e-4,2e-4,3e-4,4e-4,5e-4,6e-4,7e-4,8e-4]",
    "protocol.num_edits=4",
    "seeds=[0,1,2]",
)

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
    process = commands.start(*SWEEP, f"cluster={cluster.address}")
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


def test_node_without_the_store_is_named(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.cluster import check_nodes, set_environment
    from orchestrator.errors import UsageError

    set_environment(cluster.address)
    import ray

    monkeypatch.chdir(tmp_path)  # after the nodes have started
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        check_nodes(tmp_path)  # every node sees it
        with pytest.raises(UsageError, match=r"node .*: store=.* is not the same folder there"):
            check_nodes(Path("/proc/self/cwd"))  # another folder for every process
    finally:
        ray.shutdown()
