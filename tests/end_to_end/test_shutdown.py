"""The end of a sweep: Ray is gone, and the driver goes on writing to MLflow."""

from __future__ import annotations

from tests.end_to_end.commands import run_driver

NUM_REFERENCES = 200_000  # enough to last until Ray has shut down

DRIVER = f"""
import gc, threading
from orchestrator.running.cluster import LOCAL, running_ray, set_environment

set_environment(LOCAL)
import ray

def allocate(references):
    while references:
        cycle = [references.pop()]  # garbage that only a collection finds
        cycle.append(cycle)

gc.set_threshold(50)
with running_ray(LOCAL, 1):
    value = ray.put(0)
    references = [ray.ObjectRef(value.binary()) for _ in range({NUM_REFERENCES})]
    threading.Thread(target=allocate, args=(references,), daemon=True).start()
print("goes on")
"""


def test_driver_outlives_ray_while_another_thread_makes_garbage_of_references_to_it() -> None:
    done = run_driver(DRIVER)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr
