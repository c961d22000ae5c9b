"""Ray Tune's view of a trial: setup, step and reset around `TrialRun`.

An actor keeps its workbench from trial to trial. A trial is passed as an id; its specification
lives in the plan. State is saved by the trial itself, under its fingerprint, so that it survives
the actor, the node and the driver alike; it is deleted when the trial has ended.
"""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.exceptions import RayActorError

from trainables.errors import EditDiverged, NodeUnfitError, RankLostError, RestoreError
from trainables.parallel.gpu_memory import is_taken_by_others
from trainables.parallel.out_of_memory import is_out_of_memory
from trainables.pulse import Pulse
from trainables.spec import TrialSpec
from trainables.states import StateWriter, write_whole
from trainables.trials.packs.mates import Mates
from trainables.trials.packs.pack import Spent
from trainables.trials.ray_ranks import (
    Team,
    check_node,
    device_from_ray,
    gpu_share,
    gpus_from_ray,
    quiet_process,
)
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.time_limit import TimeLimit
from trainables.trials.workbench import Workbench

_UNENDED = ("unfit", "unstored")  # the fault is a node's, or the store's: the trial runs again
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_LONG_WRITING = 1.0  # seconds; below, the writing of a state is no burden
_TIMES_WRITING = 10  # so that at most a tenth of the time a state is being written
_DECISIVE = ("done", "rung", "compared")  # of a row: ends the trial, when and what is compared


class ActorSpentError(RayActorError):
    """This actor must not run another trial; the one it was given begins anew in another process.

    To Tune it is an actor that was lost with a preempted node: the trial is put back into the
    queue, which does not count as a failure of it.
    """

    def __init__(self, reason: str) -> None:
        """`reason` says why the process is replaced."""
        super().__init__(error_msg=reason, preempted=True)


class EditTrial(tune.Trainable):
    """One trial after another on one workbench."""

    def setup(
        self,
        config: dict[str, Any],
        plan: Mapping[str, Mapping[str, Any]] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """Remember the plan; heavy work waits for `step`, whose failures keep their trial."""
        assert plan is not None
        assert runtime is not None
        quiet_process()
        self._plan, self._runtime = plan, runtime
        self._bench = Workbench(
            runtime.cache,
            is_sharded=runtime.is_sharded,
            beside_gib=runtime.beside_gib,
            device=device_from_ray(),
        )
        self._team = Team(self._bench, runtime) if runtime.num_ranks > 1 else None
        self._mates = None
        if runtime.packs is not None:
            self._mates = Mates(self._bench, runtime.packs, plan, runtime.state_path)
        self._pulse = Pulse(runtime.pulses)
        self._writer = StateWriter()
        self._unrestored = ""  # what a trial did not restore
        self._is_spent = False
        self._is_node_checked = False
        self._num_trials = 0
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; never False, by which Tune would lose it.

        A trial that is declined here ends without a step or a retry, and neither searcher nor
        scheduler nor callbacks hear of it. An actor that has done its share, or that could not
        restore the backbone, says so in the first step instead.
        """
        self._close()
        self._is_spent = bool(self._unrestored) or self._num_trials >= self._runtime.max_trials
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Go on to the next rung; returns its row as JSON, and beside it what Tune decides by.

        Of every number that Tune can see it keeps statistics and writes them out, which costs the
        driver more than the trial's result is worth to Tune.

        A failure ends this trial with a row that says why; it is not raised, because Tune would
        repeat it, and a defect repeats itself. Only a backbone that cannot be loaded for want of
        memory, and a lost rank, are raised: whoever holds the memory may soon be gone. On a node
        that cannot work on the sweep, and where a disk takes no more, the row says so (`unfit`,
        `unstored`), and the trial has not ended.

        Raises:
            ActorSpentError: If this actor must not run another trial.
        """
        if self._is_spent:
            self.cleanup()
            reason = self._unrestored or f"it has run {self._runtime.max_trials} trials"
            raise ActorSpentError(f"the process is replaced: {reason}")
        begin, cpu = time.perf_counter(), time.process_time()
        limit = TimeLimit(self._runtime.max_seconds, self._seconds, self._overdue_path)
        try:
            with self._pulse.as_current(), limit:
                row = self._row_that_fits()
                if row["done"]:
                    row.update(self._written())
        except EditDiverged as error:
            row = {"status": "diverged", "error": str(error), "done": True}
        except NodeUnfitError as error:
            row = {"status": "unfit", "error": str(error), "node": error.node, "done": True}
        except (torch.OutOfMemoryError, RankLostError):
            raise
        except Exception as error:  # noqa: BLE001 - the one place that records a failure
            is_full = isinstance(error, OSError) and error.errno in _FULL
            reason = f"{type(error).__name__}: {first_line(error)}"
            row = {"status": "unstored" if is_full else "failed", "error": reason, "done": True}
            row["traceback"] = traceback.format_exc()
        if row["status"] in _UNENDED:
            self._close()  # its state is there to go on from
        elif row["done"]:
            self._forget_trial()
        if self._unrestored:
            row["unrestored"] = self._unrestored
        if row["done"]:
            self._pulse.end()
        self._seconds += time.perf_counter() - begin
        self._cpu_seconds += time.process_time() - cpu
        if self._bench.device == "cpu" and (gpus := gpus_from_ray()):
            row["gpus_unused"] = ",".join(gpus)
        own = self._run.own(Spent(self._seconds, self._cpu_seconds))
        row.update(asdict(own), hostname=socket.gethostname())
        return {key: row[key] for key in _DECISIVE if key in row} | {"row": json.dumps(row)}

    def cleanup(self) -> None:
        """Restore the backbone when the actor ends."""
        self._pulse.close()
        self._close()
        if self._team is not None:
            self._team.dismiss()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial saves its own state, see the module's docstring."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial finds its own state, see the module's docstring."""

    def _start(self, config: Mapping[str, Any]) -> None:
        self._key = str(config["trial_key"])
        # A searcher makes up specifications as it goes; those of a grid lie in the plan.
        spec = TrialSpec.parse(config.get("spec") or self._plan[self._key])
        self._run = TrialRun(self._bench, self._runtime, self._key, spec, self._mates)
        self._pulse.begin(self._key, f"{spec.arm or self._key} · seed {spec.seed}")
        self._num_trials += 1
        self._seconds = self._cpu_seconds = 0.0
        self._saved_at = time.monotonic()

    def _row_that_fits(self) -> dict[str, Any]:
        """The next rung's, with half as many rows at a time as often as memory runs out.

        Each time the trial goes on from its last saved state or, without one, begins anew.

        Raises:
            MemoryExhaustedError: If one row at a time is too much.
        """
        try:
            # The finder collects garbage before its first attempt: too slow for every trial.
            return self._attempt()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        from accelerate.utils import find_executable_batch_size

        # Out here no traceback holds on to the tensors of the attempt.
        finder = find_executable_batch_size(
            lambda micro_batch: self._attempt_again(),
            starting_batch_size=self._halved(reason),
            reduce_batch_size_fn=lambda: self._halved(reason),
        )
        row: dict[str, Any] = finder()
        return row

    def _attempt_again(self) -> dict[str, Any]:
        """An attempt whose want of memory is said as the finder understands it."""
        try:
            return self._attempt()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(f"ran out of memory. {first_line(error)}") from None

    def _attempt(self) -> dict[str, Any]:
        if not self._is_node_checked:
            check_node(self._runtime)
            self._is_node_checked = True
        if self._team is None:
            return self._run.next_row(self._save_now_and_then)
        return self._team.next_row(self._run, self._save_now_and_then)

    def _halved(self, reason: str) -> int:
        """Give up the attempt that ran out of memory and halve the micro-batch; returns it."""
        self._close()
        if self._unrestored:
            raise RestoreError(f"the backbone could not be restored after: {reason}")
        self._bench.free_caches()
        if self._bench.device != "cpu" and is_taken_by_others(gpu_share()):
            raise torch.OutOfMemoryError(f"others hold a part of this trial's GPU: {reason}")
        halved = self._bench.halve_micro_batch()
        if halved is None:
            raise torch.OutOfMemoryError(reason)
        return halved

    def _save_now_and_then(self) -> None:
        # A state of gibibytes is stored less often: its disk is the whole cluster's.
        wait = self._runtime.checkpoint_seconds
        if self._writer.seconds > _LONG_WRITING:
            wait = max(wait, _TIMES_WRITING * self._writer.seconds)
        if time.monotonic() - self._saved_at < wait or self._writer.is_busy:
            return
        for path, state in self._run.states():
            self._writer.submit(path, state)
        self._saved_at = time.monotonic()

    @property
    def _state_path(self) -> Path:
        return self._runtime.state_path(self._key)

    @property
    def _overdue_path(self) -> Path:
        """Marks a trial whose process had to be ended; its next process must not begin it anew."""
        return self._runtime.store / "states" / f"{self._key}.overdue"

    def _written(self) -> dict[str, Any]:
        """Name of the per-record file, one JSON line per probe and moment; the curve, if any."""
        loop = self._run.loop
        assert loop is not None
        lines = [json.dumps(line) for line in loop.record_lines()]
        blob = ("\n".join(lines) + "\n").encode()
        name = f"{hashlib.sha256(blob).hexdigest()[:32]}.jsonl"
        write_whole(self._runtime.store / "records" / name, blob)
        curve = loop.curve()
        return {"records": name, "curve": curve} if curve else {"records": name}

    def _forget_trial(self) -> None:
        """Take the method out and delete the state of a trial that has ended."""
        self._close()
        self._state_path.unlink(missing_ok=True)
        self._overdue_path.unlink(missing_ok=True)

    def _close(self) -> None:
        """Take the method out; what it leaves behind costs this process its next trial."""
        self._writer.settle()  # where it failed, what was stored before is there to go on from
        try:
            self._run.close()
            self._bench.check_restored()
        except RestoreError as error:
            self._unrestored = self._unrestored or str(error)
        except Exception as error:  # noqa: BLE001 - a defect of the trial that ends, not of the next
            reason = f"{type(error).__name__}: {first_line(error)}"
            self._unrestored = self._unrestored or reason


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0]
