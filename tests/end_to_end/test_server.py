"""A sweep that writes to an MLflow server, which dies."""

from __future__ import annotations

import csv
import io
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tracking.tracker import MOST_CLOSE_SECONDS, PATIENCE_SECONDS
from tests.end_to_end.commands import ROOT, TIMEOUT_SECONDS, Commands, assert_agree, end, wait_until
from tests.end_to_end.test_kill import FORTY, RATES, TWO_SEEDS
from tests.mlflow_server import MlflowServer, stopped_server

ONE_SEED = (*(word for word in TWO_SEEDS if not word.startswith("seeds=")), "seeds=[0]")
TWENTY = (*ONE_SEED, f"axes.method.edit_lr={RATES}")
pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[MlflowServer]:
    with stopped_server(tmp_path / "server", empty_database) as made:
        yield made


def test_server_killed_amid_a_sweep_and_started_again_then_it_has_all_that_the_ledger_has(
    bare: Commands, server: MlflowServer
) -> None:
    server.start()
    process = bare.start(*FORTY, f"mlflow={server.address}")
    try:
        wait_until(lambda: len(bare.runs(server.address)) >= 3, process)
        server.kill()
        num_ended = len(bare.ends())
        wait_until(lambda: len(bare.ends()) >= num_ended + 5, process)  # no trial waits for it
        server.start()
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)

    assert process.returncode == 0, err
    assert "MLflow still lacks" not in out
    assert server.address not in out.partition("browse: ")[0]  # MLflow itself says nothing
    times_ended = Counter(row["fingerprint"] for row in bare.ends())
    assert len(times_ended) == 40
    assert set(times_ended.values()) == {1}
    assert {row["status"] for row in bare.ends()} == {"finished"}
    assert_agree(bare, server.address)
    assert {run.info.status for run in bare.runs(server.address)} == {"FINISHED"}
    assert not (bare.store / "mlflow.db").exists()
    assert len(list(server.artifacts.rglob("*.jsonl"))) == 40  # per-record results, by the proxy

    # The table of the server, from a machine that has not got the store.
    table = bare.table("smoke", "store=nowhere", f"mlflow={server.address}", "format=csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 20
    assert all(row["reliability_seeds"] == "2" for row in rows)


def test_server_killed_and_not_started_again_then_the_end_says_what_it_lacks_and_sync_sends_it(
    bare: Commands, server: MlflowServer
) -> None:
    typed = (*TWENTY, f"mlflow={server.address}")
    server.start()
    process = bare.start(*typed)
    try:
        wait_until(lambda: len(bare.runs(server.address)) >= 3, process)
        server.kill()  # at least two of these runs are whole
        wait_until(lambda: len(bare.ends()) == 20, process)
        begin = time.monotonic()
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        seconds = time.monotonic() - begin
    finally:
        end(process)

    assert process.returncode == 0, err  # every trial is settled
    assert "Traceback" not in out + err
    assert seconds < PATIENCE_SECONDS + 40  # Ray's end, and a table that asks in vain
    assert PATIENCE_SECONDS < MOST_CLOSE_SECONDS
    told = next(line for line in out.splitlines() if "MLflow still lacks" in line)
    assert 1 <= int(told.split()[3]) <= 18
    command = shlex.split(told.partition("To send them: ")[2])
    assert command[2:] == ["--sync", *typed]

    in_vain = bare.sweep(*command[2:])
    assert in_vain.returncode == 1
    assert "20 could not be written" in in_vain.stdout

    server.start()
    for _ in range(2):  # the second time changes nothing
        synced = bare.sweep(*command[2:])
        assert synced.returncode == 0, synced.stdout + synced.stderr
        assert synced.stdout.startswith("20 trials of the ledger stand in MLflow, 0 could not")
        assert_agree(bare, server.address)
    assert len(bare.ends()) == 20


def test_server_that_never_ran_then_the_next_run_of_the_command_sends_all(
    bare: Commands, server: MlflowServer
) -> None:
    typed = (*ONE_SEED, "axes.method.edit_lr=[1e-3,2e-3]", f"mlflow={server.address}")

    first = bare.sweep(*typed)

    assert first.returncode == 0, first.stderr
    assert "MLflow still lacks 2 results" in first.stdout
    assert len(bare.ends()) == 2
    server.start()
    again = bare.sweep(*typed)
    assert again.returncode == 0, again.stderr
    assert "MLflow still lacks" not in again.stdout
    assert len(bare.ends()) == 2
    assert_agree(bare, server.address)
    (link,) = re.findall(r"browse: (\S+)", again.stdout)
    assert link.startswith(f"{server.address}/#/experiments/")

    ui = [sys.executable, str(ROOT / "orchestrator" / "ui.py")]
    pages = subprocess.run(
        [*ui, f"mlflow={server.address}/"],
        cwd=bare.folder,
        env=bare.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (pages.returncode, pages.stdout) == (0, f"smoke: {link}\n"), pages.stderr
