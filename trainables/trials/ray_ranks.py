"""Runs the further processes of a trial that several share: Ray actors in its placement group.

The trial's own actor is rank 0. It alone saves states, writes records and answers Tune; the others
run the same trial and keep their backbone from trial to trial, as it does. When one fails, all
stop: what is left of an exchange between some of them has no meaning.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from trainables.backbones.loading import Device, assigned_device
from trainables.errors import EditDiverged, NodeUnfitError, RankLostError, RestoreError
from trainables.parallel.gpu_memory import grow_in_place, keep_to_share
from trainables.parallel.out_of_memory import is_out_of_memory
from trainables.parallel.ranks import Ranks, meeting_place
from trainables.spec import TrialSpec
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.workbench import Workbench

_REASON_SECONDS = 10.0  # in which a rank that another one left has noticed it
_OWN_TO_A_RANK = ("seconds", "peak_gpu_gib")  # numbers that differ from rank to rank


class Team:
    """Starts, feeds and ends the other ranks, for rank 0."""

    def __init__(self, bench: Workbench, runtime: Runtime) -> None:
        """Nobody is started before the first row."""
        self._bench, self._runtime = bench, runtime
        self._actors: list[Any] = []

    def next_row(self, run: TrialRun, after_chunk: Callable[[], None]) -> dict[str, Any]:
        """The next row of `run`, which all ranks go on with.

        Raises:
            RankLostError: If one died or does not answer.
            torch.OutOfMemoryError: If one ran out of memory.
            ValueError: If their numbers differ.
        """
        if not self._actors:
            self._gather()
        limit = self._bench.limit_of(run.spec)
        answers = [actor.next_row.remote(run.key, run.spec, limit) for actor in self._actors]
        is_done = False
        try:
            row = run.next_row(after_chunk)
            others = ray.get(answers, timeout=self._runtime.rank_timeout_seconds)
            _check_alike(row, others)
            is_done = True
        except EditDiverged:
            raise  # so it did on every rank
        except (RuntimeError, MemoryError, RayActorError, GetTimeoutError) as error:
            raise self._reason(error, answers) from error
        finally:
            if not is_done:
                self.dismiss()
        return row

    def dismiss(self) -> None:
        """End the other processes; new ones are started with the next row."""
        ranks, self._bench.ranks = self._bench.ranks, None
        if ranks is not None:
            ranks.leave()
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _gather(self) -> None:
        """Start the other ranks, each in its own bundle, and join them."""
        group = ray.util.get_current_placement_group()
        assert group is not None  # a trial always has one
        size, timeout = self._runtime.num_ranks, self._runtime.rank_timeout_seconds
        host = ray.util.get_node_ip_address()
        place = meeting_place(host, 0, is_host=True, timeout_seconds=timeout)
        self._actors = [_actor(group, rank, self._runtime) for rank in range(1, size)]
        self._check_nodes(timeout)
        joined = [
            actor.join.remote(rank, host, place.port) for rank, actor in enumerate(self._actors, 1)
        ]
        try:
            self._bench.ranks = Ranks(0, size, place, join_seconds=timeout)
            ray.get(joined, timeout=timeout)
        except (RuntimeError, RayActorError, GetTimeoutError) as error:
            self.dismiss()
            raise RankLostError(f"the ranks did not come together: {error}") from error

    def _check_nodes(self, timeout: float) -> None:
        """Returns once every rank is there, on a node that can work on the sweep."""
        answers = [actor.check_node.remote() for actor in self._actors]
        ready, late = ray.wait(answers, num_returns=len(answers), timeout=timeout)
        failures = [failure for failure in map(_failure, ready) if failure is not None]
        if late:
            failures.append(RankLostError("a rank does not answer"))
        if failures:
            self.dismiss()
            raise failures[0]

    def _reason(self, error: Exception, answers: list[Any]) -> Exception:
        """Why a row failed: `error` is what rank 0 saw, often only that another one left."""
        if is_out_of_memory(error):
            return error
        ranks = self._bench.ranks
        if ranks is not None:
            ranks.leave()  # frees those that wait for this one
        ready, late = ray.wait(answers, num_returns=len(answers), timeout=_REASON_SECONDS)
        found = [_failure(answer) for answer in ready]
        for failure in found:
            if failure is not None and is_out_of_memory(failure):
                return failure
        lost = [failure for failure in found if isinstance(failure, RankLostError)]
        if lost or late:
            return lost[0] if lost else RankLostError("a rank does not answer")
        return error


class _RankActor:
    """One further process; a Ray actor."""

    def __init__(self, runtime: Runtime) -> None:
        quiet_process()
        self._runtime = runtime
        self._bench = Workbench(runtime.cache, device=device_from_ray())
        self._run: TrialRun | None = None

    def check_node(self) -> None:
        check_node(self._runtime)

    def join(self, rank: int, host: str, port: int) -> None:
        timeout = self._runtime.rank_timeout_seconds
        place = meeting_place(host, port, is_host=False, timeout_seconds=timeout)
        self._bench.ranks = Ranks(rank, self._runtime.num_ranks, place, join_seconds=timeout)

    def next_row(self, key: str, spec: TrialSpec, micro_batch: int | None) -> dict[str, Any]:
        """The same row as rank 0's."""
        if self._run is None or self._run.key != key:
            self._close()
            self._run = TrialRun(self._bench, self._runtime, key, spec)
        is_done = False
        try:
            self._bench.take_micro_batch(spec, micro_batch)
            row = self._run.next_row()
            is_done = True
        finally:
            if not is_done and self._bench.ranks is not None:
                self._bench.ranks.leave()  # or the others would wait
        return row

    def _close(self) -> None:
        if self._run is None:
            return
        self._run.close()
        try:
            self._bench.check_restored()
        except RestoreError:
            ranks = self._bench.ranks
            self._bench = Workbench(self._runtime.cache, device=self._bench.device)
            self._bench.ranks = ranks


def check_node(runtime: Runtime) -> None:
    """Returns if the node that this process runs on can work on the sweep.

    Raises:
        NodeUnfitError: Otherwise.
    """
    problems = runtime.problems() if runtime.problems is not None else ()
    if problems:
        raise NodeUnfitError(ray.get_runtime_context().get_node_id(), "; ".join(problems))


def gpus_from_ray() -> list[str]:
    """The GPUs that Ray gave this process."""
    return [str(each) for each in ray.get_gpu_ids()] if ray.is_initialized() else []


def device_from_ray() -> Device | None:
    """Where this process computes, by the GPUs that Ray gave it; None outside of Ray.

    Of a GPU that others share it takes no more than its part.
    """
    if not ray.is_initialized():
        return None
    grow_in_place()
    device = assigned_device(len(gpus_from_ray()))
    if device != "cpu":
        keep_to_share(gpu_share())
    return device


def gpu_share() -> float:
    """How much of a GPU Ray gave this process; from 1 on, so many whole ones."""
    if not ray.is_initialized():
        return 1.0
    return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0))


def quiet_process() -> None:
    """One thread for this process, and no progress bars in the driver's terminal."""
    from transformers.utils import logging

    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _actor(group: PlacementGroup, rank: int, runtime: Runtime) -> Any:
    """A rank's actor, with all that its bundle holds."""
    bundle = group.bundle_specs[rank]
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
    made = ray.remote(_RankActor).options(
        num_cpus=bundle.get("CPU", 0), num_gpus=bundle.get("GPU", 0), scheduling_strategy=place
    )
    return made.remote(runtime)


def _failure(answer: Any) -> Exception | None:
    """The error of a rank that has died or failed; None for one that answered."""
    try:
        ray.get(answer)
    except RayActorError as error:
        return RankLostError(f"a rank died: {error}")
    except RayTaskError as error:
        cause: Exception = error.cause
        if is_out_of_memory(cause):
            return torch.OutOfMemoryError(str(cause))
        return cause
    return None


def _check_alike(row: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Refuse a row of which the ranks report different numbers.

    Raises:
        ValueError: If they do not: what ranks that drifted apart have made means nothing.
    """
    for key, value in row.items():
        if not isinstance(value, float) or key.endswith(_OWN_TO_A_RANK):
            continue
        for other in others:
            if not math.isclose(value, other[key], rel_tol=1e-6, abs_tol=1e-9):
                raise ValueError(f"ranks disagree on {key}: {value} and {other[key]}")
