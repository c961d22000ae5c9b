"""Keeps the report page of a store up to date while a sweep runs: `report=live`.

The page is made by a process of its own, `analysis/report.py live=yes`, which lasts as long as the
sweep and gives way to everything else. The driver only tells it now and then how the sweep stands:
one line of JSON, from the thread that shows the board. When the driver ends, by whatever cause,
the process reads the end of its input, writes the page a last time as one that lasts, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.store.provenance import ROOT
from orchestrator.terminal.running_trials import duration
from orchestrator.terminal.tally import Standing

EVERY_SECONDS = 30.0
MOST_CLOSE_SECONDS = 120.0  # for the last page, of whatever size the store is
NUM_ARMS, NUM_RUNNING, NUM_FAILURES = 20, 50, 20
MOST_SIGNS = 400  # of a reason; a line fits into the pipe, so that writing it never waits


class LiveReport:
    """The page of one driver's sweep."""

    def __init__(
        self,
        store: Path,
        ablation: str,
        server: str | None = None,
        every_seconds: float = EVERY_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs yet.

        Args:
            store: Folder in which `report.html` is written.
            ablation: What is swept, for a reader.
            server: Address of the MLflow server that holds the runs; None: the store's database.
            every_seconds: Between two writings.
            monotonic: The clock.
        """
        self._command = [sys.executable, str(ROOT / "analysis" / "report.py"), "live=yes"]
        self._command += [f"store={store}", *([f"mlflow={server}"] if server else [])]
        self._ablation = ablation
        self._every_seconds, self._monotonic = every_seconds, monotonic
        self._process: subprocess.Popen[str] | None = None
        self._told = -every_seconds

    def show(self, standing: Standing) -> None:
        """Tell the process, unless it was told just now; returns at once."""
        now = self._monotonic()
        if now - self._told < self._every_seconds:
            return
        self._told = now
        self._tell(json.dumps(self._line(standing)))

    def close(self) -> str:
        """Have the last page written; returns why it was not, in one line, else ""."""
        process = self._started()
        try:
            _, said = process.communicate(timeout=MOST_CLOSE_SECONDS)  # ends its input
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return f"it took longer than {MOST_CLOSE_SECONDS:.0f} s"
        if process.returncode == 0:
            return ""
        return said.strip().rpartition("\n")[2] or f"status {process.returncode}"

    def _tell(self, line: str) -> None:
        process = self._started()
        # If the process is gone, `close` says why.
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.write(f"{line}\n")
                process.stdin.flush()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                # Nobody reads its errors before the end: they must be few.
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
                start_new_session=True,  # Ctrl-C is for the driver
            )
        return self._process

    def _line(self, standing: Standing) -> dict[str, Any]:
        """What `analysis.page.live.Live` holds."""
        left = standing.left_seconds
        return {
            "ablation": self._ablation,
            "every_seconds": round(self._every_seconds),
            "total": standing.total,
            "counts": dict(sorted(standing.counts.items())),
            "elapsed": duration(standing.seconds),
            "left": "" if left is None else duration(left),
            "doing": standing.doing,
            "score": standing.score,
            "arms": [asdict(arm) for arm in standing.arms[:NUM_ARMS]],
            "num_arms": len(standing.arms),
            "running": [asdict(trial) for trial in standing.running[:NUM_RUNNING]],
            "num_running": len(standing.running),
            "failures": [
                {"reason": reason[:MOST_SIGNS], "count": count}
                for reason, count in standing.failures[:NUM_FAILURES]
            ],
        }
