"""Trials that two processes share, through Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.commands import (
    TIMEOUT_SECONDS,
    Commands,
    copy_database,
    end,
    wait_until,
    workers,
)

LAST_LAYER = 3  # the edited one is below, for it is the rows above that ranks divide
SMOKE = ("ablation=smoke", "backbone=facts_tiny", "axes.method=[ft_m]", "method.edit_layer=1")
DATA = ("parallel=data", "gpus_per_trial=2")
FITTING_ROWS = 2

# Python runs a `sitecustomize` that it finds at the start of every process. This one lets the rank
# that is not 0, and no other process, run out of memory, as a fuller GPU would.
SMALL_GPU = f"""
import sys

if any("default_worker" in argument for argument in sys.orig_argv):
    import pathlib

    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    def check(module, inputs):
        if getattr(getattr(module, "self_attn", None), "layer_idx", None) != {LAST_LAYER}:
            return
        if b"_RankActor" not in pathlib.Path("/proc/self/cmdline").read_bytes():
            return
        if len(inputs[0]) > {FITTING_ROWS}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    register_module_forward_pre_hook(check)
"""

pytestmark = pytest.mark.slow


def numbers(commands: Commands) -> dict[tuple[str, int], dict[str, float]]:
    """Scores by arm and seed; what a clock measured, and the micro-batch, are left out."""
    return {
        (row["spec"]["arm"], row["spec"]["seed"]): {
            key: value
            for key, value in row["metrics"].items()
            if "seconds" not in key and key != "micro_batch"
        }
        for row in commands.ends()
    }


@pytest.fixture
def plain(commands: Commands, tmp_path: Path, empty_database: Path) -> Commands:
    """The same two trials, each run by one process."""
    alone = replace(commands, folder=tmp_path / "plain")
    alone.folder.mkdir()
    copy_database(empty_database, alone.store)
    done = alone.sweep(*SMOKE)
    assert done.returncode == 0, done.stderr
    return alone


def assert_same_numbers(commands: Commands, plain: Commands) -> None:
    found, expected = numbers(commands), numbers(plain)
    assert found.keys() == expected.keys()
    assert len(found) == 2
    for key, row in found.items():
        assert row == pytest.approx(expected[key], abs=1e-6), key


def test_trials_of_two_processes_have_the_numbers_of_one(
    commands: Commands, plain: Commands
) -> None:
    shared = commands.sweep(*SMOKE, *DATA)
    assert shared.returncode == 0, shared.stderr
    assert_same_numbers(commands, plain)
    keys = [{row["fingerprint"] for row in one.ends()} for one in (commands, plain)]
    assert keys[0] == keys[1]  # where a trial runs is no part of what it is


def test_trial_whose_rank_is_killed_is_run_again_as_a_whole(commands: Commands) -> None:
    process = commands.start(*SMOKE, *DATA, "seeds=[0]")
    try:
        [rank] = wait_until(lambda: workers(process, r"ray::_RankActor\.next_row"), process)
        rank.kill()
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)
    assert process.returncode == 0, out + err
    assert [row["status"] for row in commands.ends()] == ["finished"]


def test_rank_that_runs_out_of_memory_has_all_take_fewer_rows(
    commands: Commands, plain: Commands, tmp_path: Path
) -> None:
    (tmp_path / "small_gpu").mkdir()
    (tmp_path / "small_gpu" / "sitecustomize.py").write_text(SMALL_GPU)
    path = {"PYTHONPATH": str(tmp_path / "small_gpu")}
    shared = replace(commands, variables=path).sweep(*SMOKE, *DATA)
    assert shared.returncode == 0, shared.stderr
    micro_batches = [int(row["micro_batch"]) for row in commands.ends()]
    assert max(micro_batches) <= FITTING_ROWS
    assert_same_numbers(commands, plain)
