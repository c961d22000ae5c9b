"""Live leaderboard on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

NUM_BEST = 8


class Board:
    """Shows what is done, how long the rest takes, and which arms lead."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._total = total
        self._began = time.monotonic()
        self._counts: dict[str, int] = {}
        self._arms: dict[str, list[float]] = {}
        self._live: Live | None = None
        self._said = 0.0

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(self._picture())
            self._live.stop()
        elif self._done:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def ended(self, row: Mapping[str, Any]) -> None:
        """One trial settled."""
        status = str(row["status"])
        self._counts[status] = self._counts.get(status, 0) + 1
        score = average(row["metrics"])
        if status == "finished" and score is not None:
            self._arms.setdefault(str(row["tags"]["arm"]), []).append(score)
        if self._live is not None:
            self._live.update(self._picture())
        elif status in ("failed", "diverged"):
            self._console.print(
                f"{status}: {row['run_name']}: {row.get('error')}", highlight=False, soft_wrap=True
            )
        elif time.monotonic() - self._said > 10:
            self._said = time.monotonic()
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    @property
    def _done(self) -> int:
        return sum(self._counts.values())

    def _left(self) -> str:
        if not self._done:
            return "?"
        elapsed = time.monotonic() - self._began
        left = elapsed / self._done * (self._total - self._done)
        minutes, seconds = divmod(round(left), 60)
        return f"{minutes}:{seconds:02d}"

    def _line(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        best = max(self._arms.items(), key=lambda arm: fmean(arm[1]), default=None)
        leader = f"; best {best[0]} {fmean(best[1]):.2f}" if best else ""
        return f"{self._done}/{self._total} trials ({counts}), {self._left()} left{leader}"

    def _picture(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("best arms so far (one seed may be missing)")
        table.add_column("average", justify="right")
        table.add_column("seeds", justify="right")
        ranked = sorted(self._arms.items(), key=lambda arm: -fmean(arm[1]))
        for arm, scores in ranked[:NUM_BEST]:
            table.add_row(arm, f"{fmean(scores):.2f}", str(len(scores)))
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        head = Text(f"{self._done}/{self._total} trials  {counts}  {self._left()} left")
        bar = ProgressBar(total=max(self._total, 1), completed=self._done, width=60)
        return Group(head, bar, table)


def announce(lines: Iterable[str]) -> None:
    """Say what should be known before the start."""
    console = Console(stderr=True)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


class Building:
    """A progress bar for an embedded backbone that is trained on first use; silent otherwise."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int, num_steps: int, loss: float) -> None:
        """One training step is done."""
        if not self._console.is_terminal:
            if time.monotonic() - self._said > 10 or step == num_steps:
                self._said = time.monotonic()
                self._console.print(
                    f"training the embedded backbone: step {step}/{num_steps}, loss {loss:.3f}",
                    highlight=False,
                )
            return
        if self._bar is None or self._task is None:
            self._bar = Progress(console=self._console)
            self._task = self._bar.add_task("training the embedded backbone", total=num_steps)
            self._bar.start()
        self._bar.update(self._task, completed=step)


def average(metrics: Mapping[str, Any], measure: str = "token") -> float | None:
    """Mean of reliability, generality and far locality at the end; None when one is missing."""
    scores = ("reliability", "generality", "locality_far")
    values = [metrics.get(f"{score}.{measure}.final") for score in scores]
    if any(value is None for value in values):
        return None
    return fmean(float(value) for value in values if value is not None)
