"""Runs one trial on a workbench from rung to rung, in each of its processes; no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainables.interfaces import State
from trainables.parallel.ranks import JOIN_SECONDS
from trainables.spec import TrialSpec
from trainables.states import read_state
from trainables.trials.compared import Compares, compared
from trainables.trials.loop import EditLoop
from trainables.trials.packs.mates import (
    Along,
    Mates,
    Packs,
    reported,
    spent_ahead,
    with_ahead,
    with_reported,
)
from trainables.trials.packs.pack import Member, Spent
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
        packs: Which trials may be trained together; None: each by itself.
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
    packs: Packs | None = None
    rows_at_a_time: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def state_path(self, key: str) -> Path:
        """Where the state of an unfinished trial is kept."""
        return self.store / "states" / f"{key}.safetensors"


class TrialRun:
    """A trial under way; the first row makes it begin, or go on from its saved state.

    Attributes:
        ahead: Time that other processes gave to it.
        given: Time that it gave to others.
    """

    def __init__(
        self,
        bench: Workbench,
        runtime: Runtime,
        key: str,
        spec: TrialSpec,
        mates: Mates | None = None,
    ) -> None:
        """Nothing is loaded yet; `mates` may be trained along."""
        self.key = key
        self.loop: EditLoop | None = None
        self.spec = spec
        self.ahead, self.given = Spent(), Spent()
        self._bench, self._runtime = bench, runtime
        self._mates = mates
        self._along: Along | None = None
        self._reported = 0.0
        self._why_alone = ""
        self._compares = runtime.compares.on(spec.dataset) if runtime.compares else None
        self._rung = 0

    def next_row(self, after_chunk: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Go on to the next rung and return its row.

        Args:
            after_chunk: Called every few optimiser steps, when the state may be saved.
        """
        rungs, is_first = self._runtime.rungs, self.loop is None
        loop = self._begun()
        self._to_next_rung(loop)
        if is_first and self._mates is not None:
            loop = self._with_mates(loop, rungs[self._rung], after_chunk)
        row: dict[str, Any] = dict(loop.run(rungs[self._rung], self._compares, after_chunk))
        is_done = row["progress"] >= 1.0
        # Tune compares whole numbers of its time attribute.
        row.update(rung=self._rung + 1, status="finished" if is_done else "running", done=is_done)
        device = self._bench.backbone(self.spec).device
        row["device"] = str(device.type)
        if device.type == "cuda":
            row["gpu"] = torch.cuda.get_device_name(device)
            devices = range(torch.cuda.device_count())  # of which the fullest counts
            row["peak_gpu_gib"] = max(map(torch.cuda.max_memory_allocated, devices)) / 2**30
        if self._why_alone:
            row["pack_given_up"] = self._why_alone
        if self._bench.micro_batch is not None:
            row["micro_batch"] = self._bench.micro_batch
        if self._compares is not None:
            moment = "final" if is_done else "rung"
            row["compared"] = compared(row, self._compares, moment)
            row["compared_by"] = self._compares.name
        self._reported = rungs[self._rung]
        self._rung = min(self._rung + 1, len(rungs) - 1)
        return row

    def states(self) -> list[tuple[Path, State]]:
        """What is to be stored, and where: of the trials that are trained along, then its own."""
        assert self.loop is not None
        own = with_reported(with_ahead(self.loop.state(), self.ahead), self._reported)
        along = [] if self._along is None else self._along.states()
        return [*along, (self._runtime.state_path(self.key), own)]

    def own(self, taken: Spent) -> Spent:
        """The time that went into this trial, of what its own processes have taken."""
        own = Spent()
        own.add(taken)
        own.add(self.ahead)
        own.add(self.given, -1)
        return own

    def close(self) -> None:
        """Take the method out of the backbone, and let go of those that are trained along."""
        if self._along is not None:
            self._along.close()
            self._along = None
        if self.loop is not None:
            self.loop.close()
            self.loop = None

    def _to_next_rung(self, loop: EditLoop) -> None:
        rungs = self._runtime.rungs
        if loop.method.changes_in_finish and loop.num_batches == 1:
            self._rung = len(rungs) - 1  # a rung before the end would show the floor
        # It may be at a rung of which nobody has heard: brought there by others, or killed there.
        # Of several that it has passed, as where they were other ones before, the last is reported.
        while self._rung < len(rungs) - 1 and (
            rungs[self._rung] <= self._reported or rungs[self._rung + 1] <= loop.progress
        ):
            self._rung += 1

    def _with_mates(
        self, loop: EditLoop, until: float, after_chunk: Callable[[], None]
    ) -> EditLoop:
        """Train others along up to `until`, if it is the first point where trials are compared.

        Whether they are to go on behind it, their scheduler has yet to say.

        Returns:
            The trial's loop, which may have been made anew.
        """
        assert self._mates is not None
        is_compared_before = any(rung <= loop.progress for rung in self._runtime.rungs)
        if loop.is_at(until) or is_compared_before:
            return loop
        leader = Member(self.key, loop)
        if not self._are_trained(self._mates, leader, until, after_chunk):
            # Out here no traceback holds on to the tensors of the pack.
            self.close()
            self._mates.give_up()
            return self._begun()
        if leader.error is not None:
            raise leader.error
        return leader.loop

    def _are_trained(
        self, mates: Mates, leader: Member, until: float, after_chunk: Callable[[], None]
    ) -> bool:
        """Whether all went well; where memory runs out, each has to go by itself."""
        try:
            if leader.loop.progress > 0:  # what is trained along needs a pristine backbone
                self.close()
            self._along = mates.join(self.key, self.spec, until)
            leader.loop = self._begun()
            if self._along is not None:
                self._along.train(leader, until, after_chunk)
                for each in self._along.kept:
                    self.given.add(each.spent)
        except Exception as error:  # noqa: BLE001 - if it is this trial's, it comes again
            self._why_alone = f"{type(error).__name__}: {error}"
            return False
        finally:
            if self._along is not None:
                self._along.close()
                self._along = None
        return True

    def _begun(self) -> EditLoop:
        if self.loop is not None:
            return self.loop
        if self._mates is not None:
            self._mates.begin(self.key)
        rows = self._runtime.rows_at_a_time.get((self.spec.backbone.name, self.spec.method.name))
        if rows is not None:
            self._bench.start_with(self.spec, rows)
        if self._bench.device != "cpu":
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(
                    device
                )  # the peak is this trial's, not the process's
        loop = self.loop = self._bench.loop(self.spec)
        state = read_state(self._runtime.state_path(self.key))
        if state is not None:
            loop.load(state)
            self.ahead = spent_ahead(state)
            told = reported(state)
            self._reported = loop.progress if told is None else told
        if self._bench.ranks is not None:
            # None may run ahead and save before all have read.
            self._bench.ranks.wait()
        return loop
