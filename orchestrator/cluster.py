"""Ray for the time of a sweep."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Both are read when Ray is imported: no token is needed for a Ray that only this driver sees, and
# the old output engine is the one that can be silenced.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
# Tune's own handler would end the run as if all were done; see `Interruption`.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")

import ray


@contextmanager
def running_ray(workers: int | None) -> Iterator[Mapping[str, float]]:
    """Ray on this machine, quiet, with its resources; shut down at the end.

    Where RAY_ADDRESS names a running cluster that one is joined, and `workers` only bounds the
    trials at a time.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray.init(
        num_cpus=None if os.environ.get("RAY_ADDRESS") else workers,
        include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    try:
        yield dict(ray.cluster_resources())
    finally:
        ray.shutdown()
