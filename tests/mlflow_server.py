"""A real MLflow server on loopback, which may be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 120
POLL_SECONDS = 0.1


class MlflowServer:
    """`mlflow server` on `folder/server.db`; at the same address whenever it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def artifacts(self) -> Path:
        return self._folder / "server-artifacts"

    def start(self) -> None:
        """Start it, if it does not run, and come back when it answers."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.artifacts)]
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=os.environ | own,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            log_text = (self._folder / "server.log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """End it and its workers without a word to anybody."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def stopped_server(folder: Path, database: Path) -> Iterator[MlflowServer]:
    """A server with the tables of `database`, not started yet; ended whatever happens."""
    folder.mkdir(exist_ok=True)
    (folder / "server.db").write_bytes(database.read_bytes())
    server = MlflowServer(folder)
    try:
        yield server
    finally:
        server.kill()
