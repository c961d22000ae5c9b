"""What a saved state costs a trial: how long its training stands still, and how much it slows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from trainables.interfaces import State
from trainables.states import StateWriter, read_state, snapshot, write_state

GIB = 1.0
REPEATS = 5


def checkpoints() -> None:
    """Seconds in turns: stored at once, as before, and beside the training that goes on."""
    # LEMoE with 5 dense experts of LLaMA2-7B has 5 GiB: weights, and two moments of each.
    count = int(GIB * 2**30 / 4 / 3)
    state = State({name: torch.randn(count) for name in ("expert", "exp_avg", "exp_avg_sq")})
    at_once, still, written, read = [], [], [], []
    steps_alone, steps_beside = [], []
    with tempfile.TemporaryDirectory() as folder:
        path, writer = Path(folder) / "state", StateWriter()
        for _ in range(REPEATS):
            at_once.append(_seconds(lambda: write_state(path, snapshot(state))))
            still.append(_seconds(lambda: writer.submit(path, state)))
            steps_beside.append(_steps_while(lambda: writer.is_busy))
            writer.wait()
            written.append(writer.seconds)
            end = time.monotonic() + writer.seconds
            steps_alone.append(_steps_while(lambda end=end: time.monotonic() < end))  # type: ignore[misc]
            read.append(_seconds(lambda: read_state(path)))
    ratio = median(still) / median(at_once)
    slower = 1 - median(steps_beside) / median(steps_alone)
    print(
        f"checkpoints: a state of {GIB:g} GiB, {REPEATS} repetitions in turns, on the disk of "
        "temporary files\n"
        f"  stored at once {median(at_once):.2f} s; beside the training it stands still for "
        f"{median(still):.2f} s, {ratio:.2f} of that, demand <= 0.2: "
        f"{'ok' if ratio <= 0.2 else 'MISS'}\n"
        f"  written with its hash in {median(written):.2f} s, in which steps of products take "
        f"{slower:.0%} longer; read and checked in {median(read):.2f} s"
    )


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _steps_while(goes_on: Callable[[], bool]) -> float:
    """Steps per second of small matrix products, as a trial on a CPU makes them."""
    weight, steps, begin = torch.randn(256, 256), 0, time.perf_counter()
    while goes_on():
        weight = torch.tanh(weight @ weight / 16)
        steps += 1
    return steps / (time.perf_counter() - begin)
