"""What a node must have, asked of this process; on a cluster: tests/end_to_end/test_cluster.py."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.running.nodes import MOST_UNFIT, Demands, Nodes


@pytest.fixture
def demands(tmp_path: Path) -> Demands:
    return Demands.of_this_process(tmp_path, tmp_path / "ray" / "driver")


def test_this_process_has_what_it_demands(demands: Demands) -> None:
    assert demands.problems() == []


@pytest.mark.parametrize(
    "name", ["source hash", "python version", "torch version", "transformers version"]
)
def test_node_with_another_version_says_which(demands: Demands, name: str) -> None:
    other = replace(demands, alike={**demands.alike, name: "0.0.1"})
    (problem,) = other.problems()
    here = f"node {socket.gethostname()}: {name} is {demands.alike[name]} there ("
    assert problem.startswith(here)
    assert problem.endswith("), 0.0.1 at the driver")


@pytest.mark.parametrize("content", [None, "of another driver", b"\xff\xfe"])
def test_node_with_another_folder_says_so(demands: Demands, content: str | bytes | None) -> None:
    if content is None:
        demands.marker.unlink()
    else:
        demands.marker.write_bytes(content if isinstance(content, bytes) else content.encode())
    (problem,) = demands.problems()
    assert f"store={demands.store} is not the same folder there" in problem


def test_too_many_unfit_nodes_end_the_sweep_with_all_their_problems() -> None:
    nodes = Nodes(None)
    nodes.look()  # there is none but this process's own
    nodes.raise_if_more_than(0)
    for number in range(MOST_UNFIT):
        nodes.leave_out(f"id{number}", f"node n{number}: too old")
        nodes.leave_out(f"id{number}", "told again")
    nodes.raise_if_more_than(MOST_UNFIT)
    nodes.leave_out("last", "node a: too old")
    with pytest.raises(UsageError) as caught:
        nodes.raise_if_more_than(MOST_UNFIT)
    problems = [f"node {name}: too old" for name in ("a", "n0", "n1", "n2")]
    assert str(caught.value) == "the cluster cannot run this sweep: " + "; ".join(problems)
