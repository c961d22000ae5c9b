"""Ray Tune's view of a trial: setup, step and reset around `EditLoop`; the only ray importer here.

An actor keeps its workbench from trial to trial. A trial is passed as an id; its specification
lives in the plan. State is saved by the trial itself, under its fingerprint, so that it survives
the actor, the node and the driver alike; it is deleted when the trial settles.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from trainables.artefacts import read_state, write_state
from trainables.edit_loop import EditLoop, compared
from trainables.errors import EditDiverged, RestoreError
from trainables.time_limit import TimeLimit
from trainables.workbench import Workbench


@dataclass(frozen=True)
class Runtime:
    """What decides where a trial runs and is stored, never its numbers.

    Attributes:
        cache: Folder of embedded backbones and artefacts.
        store: Folder of the sweep's results.
        rungs: Shares of progress at which a row is reported; the last is 1.
        rung_score: `<score>.<measure>` computed before the end; None: nothing is.
        checkpoint_seconds: Least time between two saved states.
        max_seconds: A trial that takes longer has failed; None: no limit.
        max_trials: Trials after which an actor gives way to a new process.
    """

    cache: Path
    store: Path
    rungs: tuple[float, ...] = (1.0,)
    rung_score: str | None = None
    checkpoint_seconds: float = 120.0
    max_seconds: float | None = None
    max_trials: int = (
        500  # a process that lives for days should not be trusted to be as on its first
    )


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
        torch.set_num_threads(1)
        # Progress bars of a worker would end up in the driver's terminal.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        _silence_transformers()
        self._plan, self._runtime = plan, runtime
        self._bench = Workbench(runtime.cache)
        self._is_clean = True
        self._num_trials = 0
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; False asks for a new actor.

        That is when the backbone could not be restored, or this one has done its share.
        """
        self._close()
        is_fit = self._is_clean and self._num_trials < self._runtime.max_trials
        if is_fit:
            self._start(new_config)
        return is_fit

    def step(self) -> dict[str, Any]:
        """Go on to the next rung and return its row.

        A failure ends this trial with a row that says why; it is not raised, because Tune would
        repeat it, and a defect repeats itself. Only a backbone that cannot be loaded for want of
        memory is raised: whoever holds the memory may soon be gone.
        """
        begin, cpu = time.perf_counter(), time.process_time()
        limit = TimeLimit(self._runtime.max_seconds, self._seconds, self._overdue_path)
        try:
            with limit:
                row = self._row_that_fits()
        except EditDiverged as error:
            row = {"status": "diverged", "error": str(error), "done": True}
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the one place that records a failure
            reason = f"{type(error).__name__}: {first_line(error)}"
            row = {"status": "failed", "error": reason, "done": True}
            row["traceback"] = traceback.format_exc()
        if row["done"]:
            self._settle()
        self._seconds += time.perf_counter() - begin
        self._cpu_seconds += time.process_time() - cpu
        row.update(seconds=self._seconds, cpu_seconds=self._cpu_seconds, trial_key=self._key)
        return row

    def cleanup(self) -> None:
        """Restore the backbone when the actor ends."""
        self._close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial saves its own state, see the module's docstring."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial finds its own state, see the module's docstring."""

    def _start(self, config: Mapping[str, Any]) -> None:
        self._key = str(config["trial_key"])
        # A searcher makes up specifications as it goes; those of a grid lie in the plan.
        self._spec = config.get("spec") or self._plan[self._key]
        self._loop: EditLoop | None = None
        self._num_trials += 1
        self._rung = 0
        self._seconds = self._cpu_seconds = 0.0
        self._saved_at = time.monotonic()

    def _row_that_fits(self) -> dict[str, Any]:
        """`_next_row`, with half as many rows at a time as often as memory runs out.

        Each time the trial goes on from its last saved state or, without one, begins anew.

        Raises:
            MemoryExhaustedError: If one row at a time is too much.
        """
        from accelerate.utils import find_executable_batch_size
        from accelerate.utils.memory import should_reduce_batch_size

        try:
            # The finder collects garbage before its first attempt: too slow for every trial.
            return self._next_row()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            reason = first_line(error)
        # Out here no traceback holds on to the tensors of the attempt.
        finder = find_executable_batch_size(
            lambda micro_batch: self._next_row(),
            starting_batch_size=self._halved(reason),
            reduce_batch_size_fn=lambda: self._halved(reason),
        )
        row: dict[str, Any] = finder()
        return row

    def _halved(self, reason: str) -> int:
        """Give up the attempt that ran out of memory and halve the micro-batch; returns it."""
        self._close()
        if not self._is_clean:
            raise RestoreError(f"the backbone could not be restored after: {reason}")
        halved = self._bench.halve_micro_batch()
        if halved is None:
            raise torch.OutOfMemoryError(reason)
        return halved

    def _next_row(self) -> dict[str, Any]:
        if self._loop is None:
            self._loop = self._bench.loop(self._spec)
            state = read_state(self._state_path)
            if state is not None:
                self._loop.load(state)
        rungs = self._runtime.rungs
        if self._loop.method.changes_in_finish and self._loop.num_batches == 1:
            self._rung = len(rungs) - 1  # a rung before the end would show the floor
        while rungs[self._rung] <= self._loop.progress and self._rung < len(rungs) - 1:
            self._rung += 1
        row: dict[str, Any] = dict(
            self._loop.run(rungs[self._rung], self._runtime.rung_score, self._save_now_and_then)
        )
        is_done = row["progress"] >= 1.0
        # Tune compares whole numbers of its time attribute.
        row.update(rung=self._rung + 1, status="finished" if is_done else "running", done=is_done)
        row["device"] = str(self._bench.backbone(self._spec).device.type)
        if self._bench.micro_batch is not None:
            row["micro_batch"] = self._bench.micro_batch
        if torch.cuda.is_available():
            row["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self._runtime.rung_score is not None:
            moment = "final" if is_done else "rung"
            row["compared"] = compared(row, self._runtime.rung_score, moment)
        if is_done:
            row["records"] = self._write_records()
            if curve := self._loop.curve():
                row["curve"] = curve
        self._rung = min(self._rung + 1, len(rungs) - 1)
        return row

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at < self._runtime.checkpoint_seconds:
            return
        assert self._loop is not None
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        write_state(self._state_path, self._loop.state())
        self._saved_at = time.monotonic()

    @property
    def _state_path(self) -> Path:
        return self._runtime.store / "states" / f"{self._key}.safetensors"

    @property
    def _overdue_path(self) -> Path:
        """Marks a trial whose process had to be ended; its next process must not begin it anew."""
        return self._runtime.store / "states" / f"{self._key}.overdue"

    def _write_records(self) -> str:
        """One JSON line per probe and moment; named by its hash."""
        assert self._loop is not None
        lines = [json.dumps(line) for line in self._loop.record_lines()]
        blob = ("\n".join(lines) + "\n").encode()
        name = f"{hashlib.sha256(blob).hexdigest()[:32]}.jsonl"
        folder = self._runtime.store / "records"
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{name}.{os.getpid()}.tmp"
        aside.write_bytes(blob)
        aside.rename(folder / name)
        return name

    def _settle(self) -> None:
        self._close()
        self._state_path.unlink(missing_ok=True)
        self._overdue_path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        try:
            self._bench.check_restored()
        except RestoreError:
            self._is_clean = False


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def _silence_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
