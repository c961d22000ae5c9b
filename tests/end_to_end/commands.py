"""The two commands as a person types them: other working directory, own store, no import path."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 300
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Commands:
    """Runs `sweep.py` and `table.py` from `folder`, with the store `folder/results`."""

    folder: Path
    cache: Path  # XDG_CACHE_HOME, with the trained backbone
    variables: Mapping[str, str] = field(default_factory=dict)  # further ones of the environment

    @property
    def store(self) -> Path:
        return self.folder / "results"

    @property
    def environment(self) -> dict[str, str]:
        """One thread per process, as two tests run at a time; no path to the packages."""
        own = {"XDG_CACHE_HOME": str(self.cache), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return inherited | own | dict(self.variables)

    def sweep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`sweep.py`, run to its end; on a busy machine it says now and then that it still works.

        Those lines are left out.
        """
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            end(process)
        err = re.sub(r"^\w[^\n]*: \d+ s\n", "", err, flags=re.MULTILINE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`sweep.py`, under way in a session of its own, as from a terminal."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "orchestrator" / "sweep.py"), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def table(self, *arguments: str) -> str:
        """What `table.py` prints."""
        done = subprocess.run(
            [sys.executable, str(ROOT / "analysis" / "table.py"), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def segments(self) -> list[list[dict[str, Any]]]:
        """Whole rows of the ledger, driver by driver."""
        found = []
        for path in sorted((self.store / "ledger").glob("*.jsonl")):
            lines = path.read_text().split("\n")[:-1]
            found.append([json.loads(line) for line in lines if line])
        return found

    def ends(self) -> list[dict[str, Any]]:
        """End rows of all drivers; a trial that ran twice has two."""
        return [row for rows in self.segments() for row in rows if row["event"] == "end"]

    def runs(self, server: str | None = None) -> list[Any]:
        """Every run in MLflow, the store's own or a server, that is not deleted."""
        from mlflow import MlflowClient

        client = MlflowClient(server or f"sqlite:///{self.store / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, max_results=1000))


def run_driver(script: str) -> subprocess.CompletedProcess[str]:
    """A Python script that uses the packages as `sweep.py` does, run to its end."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def assert_agree(commands: Commands, server: str | None = None) -> None:
    """MLflow holds one run per trial of the ledger, written from its last end row."""
    last = {row["fingerprint"]: row["row_id"] for row in commands.ends()}
    tracked = [
        (run.data.tags["fingerprint"], run.data.tags["ledger_row"]) for run in commands.runs(server)
    ]
    assert sorted(tracked) == sorted(last.items())


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What `condition` returns as soon as it is true, while `process` runs."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (found := condition()):
        if process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"the sweep ended too early ({process.returncode}): {out}{err}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(POLL_SECONDS)
    return found


def workers(
    process: subprocess.Popen[str], inside: str = r"ray::.*\.train"
) -> list[psutil.Process]:
    """Actors that are inside a step of a trial, or inside another call, right now."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if re.match(inside, " ".join(child.cmdline())):
                found.append(child)
        except psutil.Error:  # gone since
            continue
    return found


def end(process: subprocess.Popen[str]) -> None:
    """Leave no process of this sweep behind, whatever became of the test."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.communicate()


@contextlib.contextmanager
def own_file_system(folder: Path, size_mib: int) -> Iterator[None]:
    """`folder`, made as a file system of its own; the test is skipped where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def copy_database(template: Path, store: Path) -> None:
    """Creating MLflow's tables takes seconds; a store may begin with empty ones."""
    store.mkdir()
    shutil.copy(template, store / "mlflow.db")
