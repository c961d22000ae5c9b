"""From the command to the table, and the same command again."""

from __future__ import annotations

import csv
import io
import math
import time
from dataclasses import replace

import pytest

from orchestrator.tracking.summary import is_tested
from tests.end_to_end.commands import Commands, assert_agree

SMOKE = ("ablation=smoke", "backbone=facts_tiny")
TAUGHT = (*SMOKE, "method.edit_lr=5e-3")  # at the published rate facts_tiny learns nothing
SCORES = ("reliability", "generality", "locality", "locality_near", "locality_same", "average")


TOKEN = "0123456789abcdef" * 4  # of the sweep's own Ray


def test_smoke_fills_the_table_and_then_has_nothing_left_to_do(bare: Commands) -> None:
    bare = replace(bare, variables={"RAY_AUTH_TOKEN": TOKEN})
    first = bare.sweep(*TAUGHT, "report=live")

    assert first.returncode == 0, first.stderr
    assert TOKEN not in first.stdout + first.stderr
    written = [path for path in bare.folder.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
    ends = bare.ends()
    arms = {(row["spec"]["arm"], row["spec"]["seed"]) for row in ends}
    assert arms == {("no_edit", 0), ("no_edit", 1), ("ft_m", 0), ("ft_m", 1)}
    assert len(ends) == 4
    assert {row["status"] for row in ends} == {"finished"}
    assert_agree(bare)

    rows = list(csv.DictReader(io.StringIO(bare.table("smoke", "format=csv"))))
    assert [row["Arm"] for row in rows] == ["ft_m", "no_edit"]
    for row in rows:
        assert all(math.isfinite(float(row[score])) for score in SCORES)
        assert all(row[f"{score}_seeds"] == "2" for score in SCORES)
    by_arm = {row["Arm"]: row for row in rows}
    # An untouched backbone answers every locality question as it did before.
    assert float(by_arm["no_edit"]["locality"]) == 1.0
    # 25 steps on 8 edits teach something of them.
    assert float(by_arm["ft_m"]["reliability"]) > float(by_arm["no_edit"]["reliability"])

    # The page that followed the sweep is now one that lasts; and MLflow's opens on the answer.
    page = (bare.store / "report.html").read_text("utf-8")
    assert "http-equiv" not in page
    assert page.count("ft_m, seed") == 2
    assert ("viewStateShareKey=answer" in first.stdout) == is_tested(None)

    assert bare.sweep("--status").stdout == "4 finished\n"
    again = bare.sweep(*TAUGHT)

    assert again.returncode == 0, again.stderr
    assert bare.ends() == ends
    assert len(bare.segments()) == 1  # a driver that runs nothing leaves no file
    assert_agree(bare)
    table = bare.table("smoke")
    assert table in first.stdout
    assert table in again.stdout


@pytest.mark.slow
def test_store_when_mlflow_is_lost_is_rebuilt_from_the_ledger(commands: Commands) -> None:
    smoke = (*SMOKE, "axes.method=[no_edit]", "workers=1")
    assert commands.sweep(*smoke).returncode == 0
    ends, runs = commands.ends(), commands.runs()
    (commands.store / "mlflow.db").unlink()
    begin = time.time()

    for _ in range(2):  # the second time changes nothing
        synced = commands.sweep("--sync", *smoke)
        assert synced.returncode == 0, synced.stderr
        assert synced.stdout.startswith("2 trials of the ledger stand in MLflow, 0 could not")

    assert commands.ends() == ends
    assert_agree(commands)
    rebuilt = {run.data.tags["fingerprint"]: run.data.metrics for run in commands.runs()}
    assert rebuilt == {run.data.tags["fingerprint"]: run.data.metrics for run in runs}
    assert all(run.info.end_time / 1000 < begin for run in commands.runs())


@pytest.mark.slow
def test_other_store_takes_the_results_from_the_copies(commands: Commands) -> None:
    bucket = commands.folder / "bucket"
    smoke = (*SMOKE, "axes.method=[no_edit]", "workers=1", f"copies={bucket.as_uri()}")
    first = commands.sweep(*smoke)
    assert first.returncode == 0, first.stderr
    ends, table = commands.ends(), commands.table("smoke")
    commands.store.rename(commands.folder / "lost")

    again = commands.sweep(*smoke)

    assert again.returncode == 0, again.stderr
    assert "0 trials run (nothing left to do), 2 settled before" in again.stdout
    assert commands.ends() == ends
    assert commands.table("smoke") == table
    assert_agree(commands)
    bucket.rename(commands.folder / "gone")
    bucket.write_text("not a folder")
    refused = commands.sweep(*smoke, "--fresh")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: copies={bucket.as_uri()}: ")
    assert commands.ends() == ends
