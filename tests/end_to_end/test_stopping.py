"""Sweeps that stop trials early, and searches."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.end_to_end.commands import Commands, assert_agree

ASHA = (
    "ablation=smoke",
    "backbone=facts_tiny",
    "method=ft_m",
    "axes.method.edit_lr=[1e-5,5e-3,1e-2,2e-2]",
    "method.num_steps=8",
    "method.stop_loss=0",
    "scheduler=asha",
    'scheduler.protect=["ft_m edit_lr=1e-05"]',
    "seeds=[0,1]",
    "workers=1",
)


@pytest.mark.slow
def test_asha_stops_arms_says_so_and_completes_them_on_demand(commands: Commands) -> None:
    first = commands.sweep(*ASHA)

    assert first.returncode == 0, first.stderr
    ends = commands.ends()
    assert len(ends) == 8
    stopped = [row for row in ends if row["status"] == "stopped"]
    assert stopped
    assert {row["stop_reason"] for row in stopped} == {"asha"}
    assert all(0 < row["fidelity"] < 1 for row in stopped)
    protected = [row for row in ends if row["spec"]["arm"] == "ft_m edit_lr=1e-05"]
    assert [row["status"] for row in protected] == ["finished", "finished"]
    # An arm has a mean only when both of its seeds ended; else it reads so many of 2 were stopped.
    per_arm = Counter(row["spec"]["arm"] for row in stopped)
    for line in first.stdout.splitlines():
        if (arm := line.split("|")[1].strip() if line.startswith("| ft_m") else "") in per_arm:
            assert f"pruned {per_arm[arm]}/2" in line
    assert len(re.findall(r"(?m)^\| ft_m.*pruned", first.stdout)) == len(per_arm)
    assert_agree(commands)

    completed = commands.sweep(*ASHA, "--complete-stopped")

    assert completed.returncode == 0, completed.stderr
    later = commands.ends()[len(ends) :]
    assert {row["fingerprint"] for row in later} == {row["fingerprint"] for row in stopped}
    assert {row["status"] for row in later} == {"finished"}
    assert "pruned" not in completed.stdout
    assert_agree(commands)


def test_search_goes_on_when_a_trial_has_no_score(commands: Commands) -> None:
    completed = commands.sweep(
        *("ablation=presets", "method=ft_m", "backbone=facts_tiny", "workers=1"),
        *("num_trials=4", "rerun.seeds=[0]", "rerun.untuned=false", "protocol.num_edits=4"),
        *("method.edit_layer=1", "method.num_steps=4", "start_at=nothing"),
        "axes.method.edit_lr={distribution:categorical,choices:[0.001,1.0e+38]}",
    )
    assert completed.returncode == 1, completed.stderr
    tried = {row["spec"]["method"]["edit_lr"]: row["status"] for row in commands.ends()}
    assert tried == {0.001: "finished", 1e38: "failed"}
    again = [row for row in commands.ends() if row["spec"]["dataset"]["part"] == "report"]
    assert [row["spec"]["method"]["edit_lr"] for row in again] == [0.001]


@pytest.mark.slow
def test_search_runs_the_best_again_and_resumes_without_running_anything(
    commands: Commands,
) -> None:
    search = (
        "ablation=lemoe_search",
        "backbone=facts_tiny",
        "num_trials=4",
        "rerun.best=1",
        "rerun.seeds=[0,1]",
        "protocol.num_edits=6",
        "method.num_steps=8",
        "axes.method.num_experts={distribution:categorical,choices:[1,2]}",
        "workers=1",
    )
    first = commands.sweep(*search)

    assert first.returncode == 0, first.stderr
    ends = commands.ends()
    by_part = Counter(row["spec"]["dataset"]["part"] for row in ends)
    assert by_part == {"tune": 4, "report": 2}
    best = max(
        (row for row in ends if row["spec"]["dataset"]["part"] == "tune"),
        key=lambda row: row["metrics"].get("compared", 0) * (row["status"] == "finished"),
    )
    again = [row["spec"]["swept"] for row in ends if row["spec"]["dataset"]["part"] == "report"]
    assert again == [best["spec"]["swept"]] * 2
    assert_agree(commands)

    # As if the driver had been killed after two trials: the search goes on behind them.
    (segment,) = (commands.store / "ledger").glob("*.jsonl")
    lines = segment.read_text().splitlines(keepends=True)
    at = [index for index, line in enumerate(lines) if '"event":"end"' in line][1]
    segment.write_text("".join(lines[: at + 1]))
    resumed = commands.sweep(*search)

    assert resumed.returncode == 0, resumed.stderr
    after = commands.ends()
    assert after[:2] == ends[:2]
    assert [row["fingerprint"] for row in after] == [row["fingerprint"] for row in ends]
    assert_agree(commands)

    assert commands.sweep(*search).returncode == 0
    assert commands.ends() == after
