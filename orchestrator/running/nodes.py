"""Checks that the nodes of a cluster have a sweep's store, code and library versions.

Every node is asked before the first trial; a node that joins later checks itself before its first.
"""

from __future__ import annotations

import platform
import secrets
import socket
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.store.provenance import ROOT, source_hash

MOST_UNFIT = 3  # nodes that a sweep does without; more of them are no accident
_CHECK_SECONDS = 120.0  # a worker process takes seconds to start, on a loaded node many


@dataclass(frozen=True)
class Demands:
    """What a node must have; otherwise a result would depend on the node that made it.

    Attributes:
        store: The sweep's folder.
        marker: A file in it that no other folder holds.
        alike: Hash of the source, and versions of libraries, by name.
    """

    store: Path
    marker: Path
    alike: Mapping[str, str]

    @classmethod
    def of_this_process(cls, store: Path, folder: Path) -> Demands:
        """The demands that this process meets; makes the marker in `folder`, inside the store."""
        marker = folder / f"marker-{secrets.token_hex(8)}"
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(marker.name)
        return cls(store, marker, _versions())

    def problems(self) -> list[str]:
        """What the node of this process lacks; empty if it can work on the sweep."""
        return [f"node {socket.gethostname()}: {problem}" for problem in self._problems()]

    def _problems(self) -> Iterator[str]:
        if not self._has_marker():
            yield f"store={self.store} is not the same folder there; it must be on shared storage"
        here = _versions()
        for name, value in self.alike.items():
            if here.get(name) != value:
                yield f"{name} is {here.get(name)} there ({ROOT}), {value} at the driver"

    def _has_marker(self) -> bool:
        try:
            return self.marker.read_text() == self.marker.name
        except (OSError, UnicodeDecodeError):
            return False


def _versions() -> dict[str, str]:
    return {
        "source hash": source_hash(ROOT / "trainables"),
        "python version": platform.python_version(),
        **{f"{name} version": version(name) for name in ("torch", "transformers")},
    }


class Nodes:
    """The nodes of a cluster that a sweep works on: all but those that cannot.

    A node that is unfit is left out from the next Tuner on. Until then it gives back at once, and
    unharmed, what trials it gets.
    """

    def __init__(self, demands: Demands | None) -> None:
        """Ask nobody yet; with None there is only this process's own node."""
        self.demands = demands
        self.unfit: dict[str, str] = {}  # what is wrong, by Ray's id of the node
        self._fit: set[str] = set()

    def look(self) -> None:
        """Ask the nodes that have not been asked."""
        if self.demands is None:
            return
        for node, problems in _answers(self.demands, self._fit | self.unfit.keys()).items():
            if problems:
                self.leave_out(node, "; ".join(problems))
            else:
                self._fit.add(node)

    def leave_out(self, node: str, problem: str) -> None:
        """Let the sweep do without a node."""
        self.unfit.setdefault(node, problem)

    def raise_if_more_than(self, most: int) -> None:
        """Checks that at most `most` nodes are unfit.

        Raises:
            UsageError: If more are; the message says what is wrong with each.
        """
        if len(self.unfit) > most:
            raise UsageError(
                "the cluster cannot run this sweep: " + "; ".join(sorted(self.unfit.values()))
            )


def _answers(demands: Demands, known: Collection[str]) -> dict[str, list[str]]:
    """Each node's problems by its id; `known` nodes are not asked, lost ones are left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for key, node in _living().items():
        if key not in known:
            there = NodeAffinitySchedulingStrategy(key, soft=False)
            look = ray.remote(num_cpus=0, max_retries=0)(Demands.problems)
            asked[look.options(scheduling_strategy=there).remote(demands)] = node
    if not asked:
        return {}
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_CHECK_SECONDS)
    found = {asked[each]["NodeID"]: _answer(each, asked[each]) for each in ready}
    for each in late:
        found[asked[each]["NodeID"]] = [f"{_name(asked[each])}: no answer in {_CHECK_SECONDS:g} s"]
    return {key: found[key] for key in found.keys() & _living().keys()}


def _living() -> dict[str, Mapping[str, Any]]:
    """The present nodes, by id."""
    import ray

    return {str(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}


def _answer(answer: Any, node: Mapping[str, Any]) -> list[str]:
    """The answer of `node` about itself."""
    import ray

    try:
        return list(ray.get(answer))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        return [f"{_name(node)}: this project cannot be run there ({reason})"]


def _name(node: Mapping[str, Any]) -> str:
    return f"node {node.get('NodeManagerHostname') or node['NodeManagerAddress']}"
