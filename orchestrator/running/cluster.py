"""Starts a Ray for one sweep on this machine, or joins a cluster that runs already."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.forecast.placement import Supply, attainable
from orchestrator.settings.addresses import AUTO as AUTO
from orchestrator.settings.addresses import LOCAL as LOCAL
from orchestrator.settings.obeyed import WORKER_NICENESS
from orchestrator.threads import usable_cpus

SCALING = Path("~/ray_bootstrap_config.yaml")
_CONNECT_SECONDS = 10.0
# Of a Unix socket's path, in bytes; Ray puts its own this far below its folder.
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
_BELOW_FOLDER = len("/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store")
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def set_environment(cluster: str, niceness: int = 0) -> None:
    """Set the variables that Ray reads when it is imported; call it before that.

    Ray runs whatever reaches its port, which others on the machine and on its network can see, for
    whoever has the token. A Ray of this driver's own has one that nobody else knows and that no
    file holds; a cluster has its owner's.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if cluster == LOCAL:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if niceness or WORKER_NICENESS not in os.environ:
            os.environ[WORKER_NICENESS] = str(max(niceness, os.nice(0)))
    # The old output engine is the one that can be silenced.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Tune's snapshots of all trials cost the driver much time and nobody reads them: a sweep is
    # continued from the ledger.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    # A trial of a search that failed or diverged has no score, and Tune would end all for that.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    # Tune's own handler would end the run as if all were done; see `Interruption`.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")


@contextmanager
def running_ray(cluster: str, workers: int | None, gpus: int = 0) -> Iterator[None]:
    """Start or join Ray for the time of the block; leave it, or shut it down, at the end.

    Args:
        cluster: `local` starts one here, `auto` joins the one that this machine belongs to, an
            address (`host:port`) that one.
        workers: CPUs of a local Ray; None: all that this process may use.
        gpus: GPUs of a local Ray: those that torch can use, which may be fewer than Ray finds.

    Raises:
        UsageError: If there is no such cluster, or no folder that Ray's sockets fit into.
    """
    import ray

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    is_local = cluster == LOCAL
    folder = _folder_of_its_own() if is_local and not _is_default_folder_usable() else None
    try:
        ray.init(
            address=cluster,
            num_cpus=(workers or usable_cpus()) if is_local else None,
            num_gpus=gpus if is_local else None,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _temp_dir=folder,
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if is_local:
            _remove(folder)
            raise
        raise _unanswered(cluster, error) from error
    try:
        yield
    finally:
        with _no_collection():
            ray.shutdown()
        _remove(folder)


def check_folder(cluster: str) -> None:
    """Checks that there is a folder for a Ray of this driver's own.

    Raises:
        UsageError: If every folder's path is too long for its sockets.
    """
    if cluster == LOCAL and not _is_default_folder_usable():
        _remove(_folder_of_its_own())


def _default_folder() -> str:
    """The folder in which Ray puts its sockets and logs by default."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def _is_default_folder_usable() -> bool:
    """Whether a socket's path is short enough there, and the folder can be written or made."""
    folder = Path(os.path.abspath(_default_folder()), "ray")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    is_short = len(os.fsencode(folder)) + _BELOW_FOLDER <= _LONGEST_SOCKET
    return is_short and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _folder_of_its_own() -> str:
    """A new folder with a short path, for the time of one Ray.

    Batch systems give a job a TMPDIR of a hundred characters; a socket's path ends at about that.
    """
    for short in _SHORT_FOLDERS:
        try:
            return tempfile.mkdtemp(prefix="ray-", dir=short)
        except OSError:
            continue
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    most = _LONGEST_SOCKET - _BELOW_FOLDER - len("/ray")
    raise UsageError(
        f"{name}={_default_folder()}: Ray needs a folder that can be written and has a path of at "
        f"most {most} bytes, and none of {', '.join(_SHORT_FOLDERS)} can be written; set RAY_TMPDIR"
    )


def _remove(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Turns off Python's garbage collection, which may run in any thread, during the block.

    Ray ends the process if another thread, such as the one that writes to MLflow, drops a reference
    to an object of Ray's while Ray shuts down.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def supply(cluster: str, without: Container[str] = ()) -> Supply:
    """The resources that the running Ray has, or may get.

    Args:
        cluster: The setting by which it was started or joined.
        without: Ids of nodes to leave out.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without]
    scaling = {} if cluster == LOCAL else _scaling()
    return attainable([node["Resources"] for node in nodes], scaling)


def _scaling() -> Mapping[str, Any]:
    """The settings of the cluster's autoscaler; empty if they are not known here.

    The cluster launcher leaves its file on the head, which is where `ray submit` and `ray job
    submit` run a sweep. Elsewhere only the nodes that are there count.
    """
    import ray

    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    if head != ray.util.get_node_ip_address():
        return {}
    return read_scaling(SCALING)


def read_scaling(path: Path) -> Mapping[str, Any]:
    """The cluster launcher's file on a head; empty if there is none that can be read."""
    import yaml

    try:
        loaded = yaml.safe_load(path.expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def check_address(cluster: str) -> None:
    """Checks that something listens at an address; Ray itself would try for ten minutes.

    Raises:
        UsageError: If nothing does.
    """
    if cluster in (LOCAL, AUTO):
        return
    host, _, port = cluster.rpartition(":")
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
