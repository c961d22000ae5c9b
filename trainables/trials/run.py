"""Runs one trial on a workbench from rung to rung, in each of its processes; no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainables.parallel.ranks import JOIN_SECONDS
from trainables.spec import TrialSpec
from trainables.states import read_state
from trainables.trials.compared import Compares, compared
from trainables.trials.loop import EditLoop
from trainables.trials.workbench import Workbench


@dataclass(frozen=True)
class Runtime:
    """What decides where a trial runs and is stored, never its numbers.

    Attributes:
        cache: Folder of embedded backbones and artefacts.
        store: Folder of the sweep's results.
        rungs: Shares of progress at which a row is reported; the last is 1.
        compares: What is computed before the end, and compared there; None: nothing is.
        checkpoint_seconds: Least time between two saved states; large ones wait longer.
        max_seconds: A trial that takes longer has failed; None: no limit.
        max_trials: Trials after which an actor gives way to a new process.
        is_sharded: Whether the backbone's layers lie on all GPUs of the process.
        beside_gib: Most that a method then makes on the GPU of the edited layers, 2**30 bytes.
        num_ranks: Processes that share one trial.
        rank_timeout_seconds: A rank that does not join, or answer when rank 0 has, for so long is
            lost.
        problems: What the node lacks that it is called on; None: nobody needs to ask.
        pulses: Folder in which the trial says what it is doing; None: nobody wants to know.
        rows_at_a_time: Of a GPU that is too small for all rows of a trial, so many rows to start
            with, by names of backbone and method.
    """

    cache: Path
    store: Path
    rungs: tuple[float, ...] = (1.0,)
    compares: Compares | None = None
    checkpoint_seconds: float = 120.0
    max_seconds: float | None = None
    max_trials: int = 500  # a process that lives for days is not to be trusted like a new one
    is_sharded: bool = False
    beside_gib: float = 0.0
    num_ranks: int = 1
    rank_timeout_seconds: float = JOIN_SECONDS
    problems: Callable[[], Sequence[str]] | None = None
    pulses: Path | None = None
    rows_at_a_time: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def state_path(self, key: str) -> Path:
        """Where the state of an unfinished trial is kept."""
        return self.store / "states" / f"{key}.safetensors"


class TrialRun:
    """A trial under way; the first row makes it begin, or go on from its saved state."""

    def __init__(self, bench: Workbench, runtime: Runtime, key: str, spec: TrialSpec) -> None:
        """Nothing is loaded yet."""
        self.key = key
        self.loop: EditLoop | None = None
        self.spec = spec
        self._bench, self._runtime = bench, runtime
        self._compares = runtime.compares.on(spec.dataset) if runtime.compares else None
        self._rung = 0

    def next_row(self, after_chunk: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Go on to the next rung and return its row.

        Args:
            after_chunk: Called every few optimiser steps, when the state may be saved.
        """
        if self.loop is None:
            self.loop = self._begun()
        rungs = self._runtime.rungs
        if self.loop.method.changes_in_finish and self.loop.num_batches == 1:
            self._rung = len(rungs) - 1  # a rung before the end would show the floor
        while rungs[self._rung] <= self.loop.progress and self._rung < len(rungs) - 1:
            self._rung += 1
        row: dict[str, Any] = dict(self.loop.run(rungs[self._rung], self._compares, after_chunk))
        is_done = row["progress"] >= 1.0
        # Tune compares whole numbers of its time attribute.
        row.update(rung=self._rung + 1, status="finished" if is_done else "running", done=is_done)
        device = self._bench.backbone(self.spec).device
        row["device"] = str(device.type)
        if device.type == "cuda":
            row["gpu"] = torch.cuda.get_device_name(device)
            devices = range(torch.cuda.device_count())  # of which the fullest counts
            row["peak_gpu_gib"] = max(map(torch.cuda.max_memory_allocated, devices)) / 2**30
        if self._bench.micro_batch is not None:
            row["micro_batch"] = self._bench.micro_batch
        if self._compares is not None:
            moment = "final" if is_done else "rung"
            row["compared"] = compared(row, self._compares, moment)
            row["compared_by"] = self._compares.name
        self._rung = min(self._rung + 1, len(rungs) - 1)
        return row

    def close(self) -> None:
        """Take the method out of the backbone."""
        if self.loop is not None:
            self.loop.close()
            self.loop = None

    def _begun(self) -> EditLoop:
        rows = self._runtime.rows_at_a_time.get((self.spec.backbone.name, self.spec.method.name))
        if rows is not None:
            self._bench.start_with(self.spec, rows)
        if self._bench.device != "cpu":
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(
                    device
                )  # the peak is this trial's, not the process's
        loop = self._bench.loop(self.spec)
        state = read_state(self._runtime.state_path(self.key))
        if state is not None:
            loop.load(state)
        if self._bench.ranks is not None:
            # None may run ahead and save before all have read.
            self._bench.ranks.wait()
        return loop
