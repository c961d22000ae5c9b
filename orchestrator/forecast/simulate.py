"""Simulates how long a plan takes on a cluster of another size; pure.

Trials start in the plan's order as soon as enough GPUs are free, as with Ray. One driver takes the
results one after another; a GPU is free again only when its result has been taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

_EPSILON = 1e-9  # shares of a GPU are floating-point sums


@dataclass(frozen=True)
class Job:
    """A trial as the simulation sees it: its time, and its GPUs, a fraction where trials share."""

    seconds: float
    gpus: float


@dataclass(frozen=True)
class Simulation:
    """A finished schedule.

    Attributes:
        makespan_seconds: Time from the first start until the last result is taken.
        idle_share: Share of the GPUs' time until then in which they are idle, in [0, 1].
        idle_instant_driver: The same if the driver needed no time.
        idle_instant_start: The same if, besides, trials ran as soon as they are placed: what is
            idle then is so because trials are few, or of unlike lengths.
        driver_share: Share of the driver's time until then spent on results, in [0, 1].
        most_waiting: The longest queue of results that one had to wait for at the driver.
    """

    num_gpus: int
    makespan_seconds: float
    idle_share: float
    idle_instant_driver: float
    idle_instant_start: float
    driver_share: float
    most_waiting: int


def simulate(
    jobs: Sequence[Job], num_gpus: int, driver_seconds: float, start_seconds: float = 0.0
) -> Simulation:
    """The schedule of `jobs` on `num_gpus` equal GPUs.

    Args:
        jobs: Trials in their order; each needs at most `num_gpus`.
        num_gpus: GPUs of the cluster, at least 1.
        driver_seconds: Time that the driver needs per result.
        start_seconds: Time until the first trial of a GPU runs: actor, imports and backbone.

    Raises:
        ValueError: If a job needs more GPUs than there are, or none.
    """
    for job in jobs:
        if not 0 < job.gpus <= num_gpus:
            raise ValueError(f"a trial needs {job.gpus:g} GPUs; the cluster has {num_gpus}")
    work = sum(job.seconds * job.gpus for job in jobs)
    driver = _scheduled(jobs, num_gpus, driver_seconds, start_seconds)
    makespan = driver.is_free_at

    def idle(until: float) -> float:
        return 1 - work / (num_gpus * until) if until else 0.0

    return Simulation(
        num_gpus=num_gpus,
        makespan_seconds=makespan,
        idle_share=idle(makespan),
        idle_instant_driver=idle(_scheduled(jobs, num_gpus, 0.0, start_seconds).is_free_at),
        idle_instant_start=idle(_scheduled(jobs, num_gpus, 0.0, 0.0).is_free_at),
        driver_share=len(jobs) * driver_seconds / makespan if makespan else 0.0,
        most_waiting=driver.most_waiting,
    )


def _scheduled(
    jobs: Sequence[Job], num_gpus: int, driver_seconds: float, start_seconds: float
) -> _Driver:
    """The driver when all jobs are done; arguments as of `simulate`."""
    free = cold = float(num_gpus)  # cold: no actor runs there yet
    running: list[tuple[float, int, Job]] = []  # (end, number, job), a heap
    driver = _Driver(driver_seconds)
    now = 0.0
    for number, job in enumerate(jobs):
        while free + _EPSILON < job.gpus:
            ended, _, done = heapq.heappop(running)
            now, free = max(now, driver.take(ended)), free + done.gpus
        delay = start_seconds if cold > _EPSILON else 0.0
        cold -= job.gpus
        free -= job.gpus
        heapq.heappush(running, (now + delay + job.seconds, number, job))
    while running:
        driver.take(heapq.heappop(running)[0])
    return driver


class _Driver:
    """Takes results one after another, in the order in which they come."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._taken: list[float] = []  # when those that had to wait were taken
        self.is_free_at = 0.0
        self.most_waiting = 0

    def take(self, ended: float) -> float:
        """When the result of a trial that ended at `ended` has been taken."""
        self._taken = [taken for taken in self._taken if taken > ended]
        self.most_waiting = max(self.most_waiting, len(self._taken))
        self.is_free_at = max(self.is_free_at, ended) + self._seconds
        self._taken.append(self.is_free_at)
        return self.is_free_at
