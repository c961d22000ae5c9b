"""Ray for the time of a sweep: one of this machine's own, or a cluster that runs already."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.placement import Supply, attainable
from orchestrator.provenance import ROOT, provenance

LOCAL, AUTO = "local", "auto"
SCALING = Path("~/ray_bootstrap_config.yaml")
_CONNECT_SECONDS = 10.0
_CHECK_SECONDS = 120.0  # a worker process takes seconds to start, on a loaded node many
# What must be the same on every node; a result would otherwise depend on where it was made.
_ALIKE = ("source_hash", "python_version", "torch_version", "transformers_version")


def set_environment(cluster: str) -> None:
    """What Ray reads when it is imported; call it before.

    A Ray that only this driver sees needs no token. A cluster has one, unless its owner says
    otherwise.
    """
    if cluster == LOCAL:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # The old output engine is the one that can be silenced.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Tune's snapshots of all trials cost the driver much time and nobody reads them: a sweep is
    # continued from the ledger.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    # Tune's own handler would end the run as if all were done; see `Interruption`.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")


@contextmanager
def running_ray(cluster: str, workers: int | None, store: Path) -> Iterator[Supply]:
    """Ray, quiet, with what it has or may get; left, or shut down, at the end.

    Args:
        cluster: `local` starts one here, `auto` joins the one that this machine belongs to, an
            address (`host:port`) that one.
        workers: CPUs of a local Ray; None: all.
        store: Must be seen by every node of a cluster.

    Raises:
        UsageError: If there is no such cluster, or a node cannot work on this sweep.
    """
    import ray

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    is_local = cluster == LOCAL
    try:
        ray.init(
            address=cluster,
            num_cpus=workers if is_local else None,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if is_local:
            raise
        raise _unanswered(cluster, error) from error
    try:
        if not is_local:
            check_nodes(store)
        there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield attainable(there, {} if is_local else _scaling())
    finally:
        with _no_collection():
            ray.shutdown()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's garbage collection, which may take place in any thread.

    Ray ends the process where another thread, as the one that writes to MLflow, gives up a
    reference to an object of Ray's while that shuts down.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _scaling() -> Mapping[str, Any]:
    """What the autoscaler of the cluster may do; empty where that is not known here.

    The cluster launcher leaves its file on the head, which is where `ray submit` and `ray job
    submit` run a sweep. Elsewhere only the nodes that are there count.
    """
    import ray

    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    if head != ray.util.get_node_ip_address():
        return {}
    return read_scaling(SCALING)


def read_scaling(path: Path) -> Mapping[str, Any]:
    """The cluster launcher's file on a head; empty where there is none that can be read."""
    import yaml

    try:
        loaded = yaml.safe_load(path.expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def check_address(cluster: str) -> None:
    """Returns if something listens at an address; Ray itself would try for ten minutes.

    Raises:
        UsageError: If nothing does, or `cluster` is none of `local`, `auto` and `host:port`.
    """
    if cluster in (LOCAL, AUTO):
        return
    host, _, port = cluster.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"cluster={cluster}: allowed are local, auto and an address as host:port")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise _unanswered(cluster, error) from error


def _unanswered(cluster: str, error: Exception) -> UsageError:
    reason = str(error).strip().splitlines()[0]
    return UsageError(
        f"cluster={cluster}: no Ray cluster answers ({reason}); start one with `ray up` or "
        "`ray start --head`, or leave cluster=local"
    )


def check_nodes(store: Path) -> None:
    """Returns if every node sees the store and has the same code and libraries.

    Raises:
        UsageError: With one line per node and what is wrong there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marker = store / f"marker-{secrets.token_hex(4)}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(marker.name)
    here = provenance()
    expected = {name: here[name] for name in _ALIKE}
    try:
        asked = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                look = ray.remote(num_cpus=0, max_retries=0)(_look)
                asked[look.options(scheduling_strategy=there).remote(str(marker))] = node
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_CHECK_SECONDS)
        problems = [f"{_name(asked[each])}: no answer in {_CHECK_SECONDS:g} s" for each in late]
        for each in ready:
            problems += [
                f"{_name(asked[each])}: {problem}" for problem in _problems(each, store, expected)
            ]
    finally:
        marker.unlink(missing_ok=True)
    if problems:
        raise UsageError("the cluster cannot run this sweep: " + "; ".join(sorted(problems)))


def _look(marker: str) -> dict[str, Any]:
    """What one node has; runs there."""
    path = Path(marker)
    sees_store = path.is_file() and path.read_text() == path.name
    return {**provenance(), "sees_store": sees_store, "root": str(ROOT)}


def _problems(answer: Any, store: Path, expected: Mapping[str, str]) -> Iterator[str]:
    """What is wrong on the node that gave `answer`, a reference."""
    import ray

    try:
        found = ray.get(answer)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        yield f"this project cannot be run there ({reason})"
        return
    if not found["sees_store"]:
        yield f"store={store} is not the same folder there; it must be on shared storage"
    for name, value in expected.items():
        if found[name] != value:
            what = name.replace("_", " ")
            yield f"{what} is {found[name]} there, {value} here ({found['root']})"


def _name(node: Mapping[str, Any]) -> str:
    return f"node {node.get('NodeManagerHostname') or node['NodeManagerAddress']}"
