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

SMOKE = ("ablation=smoke", "backbone=facts_tiny", "axes.method=[ft_m]")
DATA = ("parallel=data", "gpus_per_trial=2")

pytestmark = pytest.mark.slow


def numbers(commands: Commands) -> dict[tuple[str, int], dict[str, float]]:
    """Scores by arm and seed; what a clock measured is left out."""
    return {
        (row["spec"]["arm"], row["spec"]["seed"]): {
            key: value for key, value in row["metrics"].items() if "seconds" not in key
        }
        for row in commands.ends()
    }


def test_trials_of_two_processes_have_the_numbers_of_one(
    commands: Commands, tmp_path: Path, empty_database: Path
) -> None:
    shared = commands.sweep(*SMOKE, *DATA)
    assert shared.returncode == 0, shared.stderr
    plain = replace(commands, folder=tmp_path / "plain")
    plain.folder.mkdir()
    copy_database(empty_database, plain.store)
    alone = plain.sweep(*SMOKE)
    assert alone.returncode == 0, alone.stderr

    found, expected = numbers(commands), numbers(plain)
    assert found.keys() == expected.keys()
    assert len(found) == 2
    for key, row in found.items():
        assert row == pytest.approx(expected[key], abs=1e-6), key
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
