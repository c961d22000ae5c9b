"""A trial of each method whose process is killed midway goes on elsewhere to the same scores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.planning import plan
from orchestrator.settings import loading as config
from tests.contract.test_every_method import METHODS
from trainables.spec import TrialSpec
from trainables.states import read_state, write_state
from trainables.trials.loop import EditLoop, MetricRow
from trainables.trials.workbench import Workbench

ROOT = Path(__file__).resolve().parents[2]
CHUNKS_BEFORE_THE_END = 2  # of some steps each; the second is in the middle of a batch, or its end
_MEASURED = ("edit_seconds", "evaluation_seconds")

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("method", METHODS)]


def loop_of(method: str, cache: Path) -> EditLoop:
    """A stream of three batches, as a sweep would run it."""
    overrides = [
        "ablation=smoke",
        "backbone=facts_tiny",
        f"method={method}",
        "protocol.kind=lifelong",
        "protocol.num_edits=6",
        "protocol.num_batches=3",
        "seeds=[0]",
    ]
    (spec,) = plan.expand(config.load(overrides)).trials
    return Workbench(cache).loop(TrialSpec.parse(spec.to_dict()))


def killed_midway(method: str, cache: Path, state: Path) -> None:
    """Runs a trial, storing its state after every chunk, and kills this process amid it."""
    loop = loop_of(method, cache)
    chunks: list[int] = []

    def store() -> None:
        write_state(state, loop.state())
        chunks.append(1)
        if len(chunks) == CHUNKS_BEFORE_THE_END:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.run(after_chunk=store)


def scores(row: MetricRow) -> MetricRow:
    return {name: value for name, value in row.items() if name not in _MEASURED}


def test_trial_killed_midway_then_resumed_gives_the_scores_of_one_that_was_not(
    method: str, cache: Path, tmp_path: Path
) -> None:
    folder, state = cache / "editing-sweeps", tmp_path / "state.safetensors"
    whole = loop_of(method, folder).run()

    command = "import sys; from pathlib import Path; from tests.end_to_end import {0} as this; "
    command += "this.killed_midway(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))"
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            command.format(Path(__file__).stem),
            method,
            str(folder),
            str(state),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = loop_of(method, folder)
    stored = read_state(state)
    assert stored is not None
    resumed.load(stored)
    assert 0 < resumed.progress < 1

    assert scores(resumed.run()) == scores(whole)
