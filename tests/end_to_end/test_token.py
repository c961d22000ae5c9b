"""A Ray of the sweep's own answers to nobody else."""

from __future__ import annotations

import pytest

from tests.end_to_end.commands import run_driver

STRANGER = """
import os, sys
os.environ["RAY_AUTH_TOKEN"] = sys.argv[2]
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=40)
except ConnectionError:
    print("refused")
else:
    print("joined")
"""

DRIVER = f"""
import os, subprocess, sys
from orchestrator.running.cluster import LOCAL, running_ray, set_environment

set_environment(LOCAL)
import ray

with running_ray(LOCAL, 1):
    address = ray.get_runtime_context().gcs_address
    for token in ("0" * 64, os.environ["RAY_AUTH_TOKEN"]):
        subprocess.run([sys.executable, "-c", {STRANGER!r}, address, token], check=True)
"""


@pytest.mark.slow
def test_ray_of_a_local_sweep_is_joined_by_nobody_without_its_token() -> None:
    done = run_driver(DRIVER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", "joined"]
