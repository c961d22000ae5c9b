"""Trials that are trained together have the rows of trials that are not."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import Commands, assert_agree, copy_database, end, wait_until

GRID = (
    "ablation=smoke",
    "backbone=facts_tiny",
    "method=lemoe_lora",
    "axes.method.edit_lr=[1e-5,5e-3,2e-2]",
    "axes.method.lora_rank=[2,8]",
    "method.num_steps=8",
    "method.stop_loss=0",
    "protocol.num_edits=4",
    "protocol.num_batches=2",
    "seeds=[0]",
)
ONE_BY_ONE = ("workers=1", "scheduler=asha")  # what ASHA stops depends on the order of the results


@pytest.fixture
def other(commands: Commands, empty_database: Path) -> Commands:
    """The commands, on another store."""
    folder = commands.folder / "other"
    folder.mkdir()
    copy_database(empty_database, folder / "results")
    return replace(commands, folder=folder)


def rows(commands: Commands) -> dict[str, dict[str, Any]]:
    return {row["fingerprint"]: row for row in commands.ends()}


def check_alike(found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    assert found.keys() == own.keys()
    for key, row in own.items():
        for name in ("status", "stop_reason", "fidelity", "records"):  # these by hash: same tokens
            assert found[key][name] == row[name], (row["spec"]["arm"], name)
        numbers = {k: v for k, v in row["metrics"].items() if "seconds" not in k}
        assert {k: found[key]["metrics"][k] for k in numbers} == pytest.approx(numbers, abs=1e-4)


def test_packed_sweep_with_asha_has_the_rows_of_an_unpacked_one(
    commands: Commands, other: Commands
) -> None:
    packed, plain = commands.sweep(*GRID, *ONE_BY_ONE, "pack=3"), other.sweep(*GRID, *ONE_BY_ONE)
    assert packed.returncode == plain.returncode == 0, packed.stderr + plain.stderr
    own = rows(other)
    assert len(own) == 6
    assert {row["status"] for row in own.values()} == {"finished", "stopped"}
    check_alike(rows(commands), own)
    assert_agree(commands)
    assert not list((commands.store / "ray").iterdir())


@pytest.mark.slow
def test_driver_killed_amid_packs_then_the_same_command_finishes_the_rest(
    commands: Commands, other: Commands
) -> None:
    longer = ("method.num_steps=100" if "num_steps" in each else each for each in GRID)
    typed = (*longer, "workers=2", "pack=3")
    process = commands.start(*typed)
    try:
        wait_until(lambda: len(commands.ends()) >= 1, process)  # the others are trained, or nearly
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        num_before = len(commands.ends())
        again = commands.sweep(*typed)
    finally:
        end(process)
    assert again.returncode == 0, again.stderr
    assert num_before >= 1
    assert len(commands.ends()) == 6
    assert not list((commands.store / "states").iterdir())
    plain = other.sweep(*typed[:-1])
    assert plain.returncode == 0, plain.stderr
    check_alike(rows(commands), rows(other))
