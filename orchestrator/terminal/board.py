"""Shows a sweep's progress: a live leaderboard on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.settings.metrics import Compared
from orchestrator.settings.metrics import compared as named
from orchestrator.store.rows import LabelledRow
from orchestrator.terminal.running_trials import Running, duration
from orchestrator.terminal.waiting import SAY_SECONDS, Waiting

NUM_BEST = 8
NUM_RUNNING = 8  # trials shown on a terminal
NUM_IN_LINE = 4  # elsewhere
LOOK_SECONDS = 2.0
_SAY_SECONDS = 10.0  # between two lines of a backbone that is made, where there is no terminal
# Signs of a line on a terminal that are not the name's: what a trial does, columns, numbers.
_BESIDE_RUNNING, _BESIDE_BEST, _SHORTEST = 51, 17, 12


class Board:
    """Shows which trials are done, what the others do, how long the rest takes, and who leads.

    A thread of its own reads the pulses of the trials. If the output is not a terminal, it prints a
    line every ten seconds, whether a trial has ended or not.
    """

    def __init__(
        self,
        total: int,
        console: Console | None = None,
        pulses: Path | None = None,
        say_seconds: float = SAY_SECONDS,
        compared: Compared | None = None,
    ) -> None:
        """Nothing is shown yet.

        Args:
            total: Number of trials to end.
            console: Where to show it; standard error by default.
            pulses: Folder in which the trials leave their pulses.
            say_seconds: Seconds between two lines, if the output is not a terminal.
            compared: Score by which arms are ranked; `average.token` by default.
        """
        self._console = console or Console(stderr=True)
        self._total = total
        self._compared = compared or named("average.token")
        self._began = self._said = time.monotonic()
        self._counts: dict[str, int] = {}
        self._arms: dict[str, list[float]] = {}
        self._live: Live | None = None
        self._stage, self._stage_began = "", self._began
        self._running = Running(pulses)
        self._say_seconds = say_seconds
        self._lock = threading.Lock()  # trials end in another thread than that which shows them
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="board", daemon=True)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._picture,
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=False,  # it may be a file
            )
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self._running.clear()
        if self._live is not None:
            self._live.stop()
        elif self._done:
            self._print(self._line())

    def stage(self, stage: str) -> None:
        """Shows what the driver does while no trial runs, until the next trial ends."""
        self._stage, self._stage_began = stage, time.monotonic()

    def ended(self, row: LabelledRow) -> None:
        """One trial settled."""
        status = row.end.status
        numbers = self._compared.on(row.end.spec.get("dataset", {}))
        score = at_the_end(row.end.metrics, numbers)
        with self._lock:
            self._stage = ""
            self._counts[status] = self._counts.get(status, 0) + 1
            if status == "finished" and score is not None:
                self._arms.setdefault(str(row.tags["arm"]), []).append(score)
            self._running.ended(row.end.fingerprint)
        if self._live is None and status in ("failed", "diverged"):
            self._print(f"{status}: {row.run_name}: {row.end.error}")

    def _watch(self) -> None:
        """Look now and then at the trials, as nobody reports that one makes progress."""
        while not self._is_over.wait(min(LOOK_SECONDS, self._say_seconds)):
            self._running.look()
            if self._live is None and time.monotonic() - self._said >= self._say_seconds:
                self._said = time.monotonic()
                self._print(self._line())

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    @property
    def _done(self) -> int:
        return sum(self._counts.values())

    def _left(self) -> str:
        if not self._done:
            return "?"
        elapsed = time.monotonic() - self._began
        left = elapsed / self._done * (self._total - self._done)
        return duration(left)

    def _head(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        done = f"{self._done}/{self._total} trials" + (f" ({counts})" if counts else "")
        return f"{done}, {self._left()} left" if self._done else done

    def _doing(self) -> str:
        """What the driver does, if no trial has left a pulse yet."""
        if not self._stage or self._running.trials:
            return ""
        return f"{self._stage}, {duration(time.monotonic() - self._stage_began)}"

    def _line(self) -> str:
        with self._lock:
            parts = [self._head()]
            best = next(iter(self._ranked()), None)
            parts += [f"best {best[0]} {fmean(best[1]):.2f}"] if best else []
            parts += [doing] if (doing := self._doing()) else []
            shown = self._running.trials[:NUM_IN_LINE]
            parts += [f"{trial.name}: {trial.doing}, {trial.time}" for trial in shown]
            hidden = len(self._running.trials) - len(shown)
            parts += [f"and {hidden} more"] if hidden else []
        return "; ".join(parts)

    def _picture(self) -> Group:
        with self._lock:
            shown: list[RenderableType] = [Text(self._head())]
            shown.append(ProgressBar(total=max(self._total, 1), completed=self._done, width=60))
            shown.append(Text(""))  # ends the line of the bar, which does not do so itself
            shown += [Text(doing)] if (doing := self._doing()) else []
            shown += [self._running_table()] if self._running.trials else []
            shown += [self._best_table()] if self._arms else []
        return Group(*shown)

    def _ranked(self) -> list[tuple[str, list[float]]]:
        """Arms and the values of their seeds, the best first."""
        sign = self._compared.sign
        return sorted(self._arms.items(), key=lambda arm: -sign * fmean(arm[1]))

    def _running_table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("running", no_wrap=True)
        table.add_column("doing", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        trials, room = self._running.trials, self._console.width - _BESIDE_RUNNING
        for trial in trials[:NUM_RUNNING]:
            table.add_row(Text(shortened(trial.name, room)), Text(trial.doing), trial.time)
        if len(trials) > NUM_RUNNING:
            table.add_row(f"and {len(trials) - NUM_RUNNING} more")
        return table

    def _best_table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("best arms so far (one seed may be missing)", no_wrap=True)
        # `token` is what a table is in, too, where no measure is named.
        heading = self._compared.name.removesuffix(".token")
        table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("seeds", justify="right", no_wrap=True)
        room = self._console.width - _BESIDE_BEST
        for arm, scores in self._ranked()[:NUM_BEST]:
            table.add_row(Text(shortened(arm, room)), f"{fmean(scores):.2f}", str(len(scores)))
        return table


def shortened(name: str, most: int) -> str:
    """`name` in at most `most` characters, its middle left out, as arms differ at the end.

    It keeps a few characters even if there is no room for any.
    """
    most = max(most, _SHORTEST)
    tail = most // 2
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"


def announce(lines: Iterable[str]) -> None:
    """Print lines that should be read before the sweep starts."""
    console = Console(stderr=True)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


class Building:
    """A progress bar while a backbone is trained, fetched or converted on first use."""

    def __init__(self, waiting: Waiting | None = None, console: Console | None = None) -> None:
        """Show nothing yet; `waiting` shows nothing while there is a bar."""
        self._console = console or Console(stderr=True)
        self._waiting, self._pause = waiting, ExitStack()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._pause.close()

    def advance(self, step: int, num_steps: int, loss: float) -> None:
        """One training step is done."""
        training = "training the embedded backbone"
        self._show(training, step / num_steps, f": step {step}/{num_steps}, loss {loss:.3f}")

    def converting(self, what: str, share: float) -> None:
        """So much of a backbone is fetched or converted."""
        self._said = self._said or time.monotonic()  # what takes a moment needs no line
        self._show(what, share, f": {share:.0%}" if share else "")

    def _show(self, what: str, share: float, more: str) -> None:
        if self._waiting is not None:
            self._pause.enter_context(self._waiting.paused())
            self._waiting = None
        if not self._console.is_terminal:
            if time.monotonic() - self._said > _SAY_SECONDS or share >= 1:
                self._said = time.monotonic()
                self._console.print(f"{what}{more}", highlight=False, soft_wrap=True)
            return
        if self._bar is None or self._task is None:
            self._bar = Progress(console=self._console)
            self._task = self._bar.add_task(what, total=1.0)
            self._bar.start()
        self._bar.update(self._task, description=what, completed=share)


def at_the_end(metrics: Mapping[str, Any], numbers: Sequence[str]) -> float | None:
    """Mean of these numbers in a trial's last row; None if one is missing."""
    values = [metrics.get(f"{name}.final", metrics.get(name)) for name in numbers]
    if any(value is None for value in values):
        return None
    return fmean(float(value) for value in values if value is not None)
