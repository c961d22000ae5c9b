"""Shows a sweep's progress: a live leaderboard on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.settings.metrics import Compared
from orchestrator.settings.metrics import compared as named
from orchestrator.store.rows import LabelledRow
from orchestrator.terminal.running_trials import RunningTrial
from orchestrator.terminal.tally import Standing, Tally
from orchestrator.terminal.waiting import SAY_SECONDS, Waiting
from orchestrator.threads import uninterrupted

NUM_BEST = 8
NUM_RUNNING = 8  # trials shown on a terminal
NUM_IN_LINE = 4  # elsewhere
NUM_FAILURES = 4  # reasons
LOOK_SECONDS = 2.0
_SAY_SECONDS = 10.0  # between two lines of a backbone that is made, where there is no terminal
# Signs of a line on a terminal that are not the name's: what a trial does, columns, numbers.
_BESIDE_RUNNING, _BESIDE_BEST, _SHORTEST = 51, 24, 12
_IN_LINE = 60  # of a name, where no terminal shows the picture


class Page(Protocol):
    """Shows elsewhere what a board shows; see `running.live_report.LiveReport`."""

    def show(self, standing: Standing) -> None:
        """Show it; called every few seconds, and returns at once."""


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
        page: Page | None = None,
    ) -> None:
        """Nothing is shown yet.

        Args:
            total: Number of trials to end.
            console: Where to show it; standard error by default.
            pulses: Folder in which the trials leave their pulses.
            say_seconds: Seconds between two lines, if the output is not a terminal.
            compared: Score by which arms are ranked; `average.token` by default.
            page: Shows the same elsewhere.
        """
        self._console = console or Console(stderr=True)
        self._tally = Tally(total, compared or named("average.token"), pulses)
        self._page = page
        self._said = time.monotonic()
        self._live: Live | None = None
        self._say_seconds = say_seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="board", daemon=True)

    def __enter__(self) -> Board:
        try:
            with uninterrupted():
                if self._console.is_terminal:
                    self._live = Live(
                        get_renderable=self._picture,
                        console=self._console,
                        refresh_per_second=4,
                        redirect_stdout=False,  # it may be a file
                    )
                    self._live.start()
                self._thread.start()
        except BaseException:  # Ctrl-C: nothing may go on moving, as nobody will end it
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._tally.clear()
        if self._live is not None:
            self._live.stop()
        elif self._tally.standing().done:
            self._print(self._line())

    def stage(self, stage: str) -> None:
        """Shows what the driver does while no trial runs, until the next trial ends."""
        self._tally.stage(stage)

    def ended(self, row: LabelledRow) -> None:
        """One trial settled."""
        self._tally.ended(row)
        if self._live is None and row.end.status in ("failed", "diverged"):
            self._print(f"{row.end.status}: {row.run_name}: {row.end.error}")

    def _watch(self) -> None:
        """Look now and then at the trials, as nobody reports that one makes progress."""
        while True:
            self._tally.look()
            if self._page is not None:
                self._page.show(self._tally.standing())
            if self._is_over.wait(min(LOOK_SECONDS, self._say_seconds)):
                return
            if self._live is None and time.monotonic() - self._said >= self._say_seconds:
                self._said = time.monotonic()
                self._print(self._line())

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _line(self) -> str:
        now = self._tally.standing()
        parts = [now.head]
        parts += [f"best {shortened(arm.name, _IN_LINE)} {arm.text}" for arm in now.arms[:1]]
        parts += [now.doing] if now.doing else []
        shown = now.running[:NUM_IN_LINE]
        parts += [
            f"{shortened(trial.name, _IN_LINE)}: {trial.doing}, {trial.time}" for trial in shown
        ]
        hidden = len(now.running) - len(shown)
        parts += [f"and {hidden} more"] if hidden else []
        return "; ".join(parts)

    def _picture(self) -> Group:
        now = self._tally.standing()
        shown: list[RenderableType] = [Text(now.head)]
        shown.append(ProgressBar(total=max(now.total, 1), completed=now.done, width=60))
        shown.append(Text(""))  # ends the line of the bar, which does not do so itself
        shown += [Text(now.doing)] if now.doing else []
        shown += [self._running_table(now.running)] if now.running else []
        shown += [self._best_table(now)] if now.arms else []
        shown += [self._failures(now.failures)] if now.failures else []
        return Group(*shown)

    def _running_table(self, trials: Sequence[RunningTrial]) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("running", no_wrap=True)
        table.add_column("doing", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        room = self._console.width - _BESIDE_RUNNING
        for trial in trials[:NUM_RUNNING]:
            table.add_row(Text(shortened(trial.name, room)), Text(trial.doing), trial.time)
        if len(trials) > NUM_RUNNING:
            table.add_row(f"and {len(trials) - NUM_RUNNING} more")
        return table

    def _best_table(self, now: Standing) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("best arms so far (± 95% over seeds, from three on)", no_wrap=True)
        table.add_column(now.score, justify="right", no_wrap=True)
        table.add_column("seeds", justify="right", no_wrap=True)
        room = self._console.width - _BESIDE_BEST
        for arm in now.arms[:NUM_BEST]:
            table.add_row(Text(shortened(arm.name, room)), arm.text, str(arm.seeds))
        return table

    def _failures(self, failures: Sequence[tuple[str, int]]) -> Text:
        """One line for each reason, cut where the terminal ends."""
        lines = [f"{count} x {reason}" for reason, count in failures[:NUM_FAILURES]]
        hidden = sum(count for _, count in failures[NUM_FAILURES:])
        lines += [f"{hidden} more for other reasons"] if hidden else []
        most = max(self._console.width, _SHORTEST)
        return Text("failed or diverged\n" + "\n".join(line[:most] for line in lines))


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
        self._is_over = False

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._pause.close()
        # A search may ask for more later, when the board has the screen: that gets lines.
        self._waiting, self._is_over = None, True

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
        if self._is_over or not self._console.is_terminal:
            if time.monotonic() - self._said > _SAY_SECONDS or share >= 1:
                self._said = time.monotonic()
                self._console.print(f"{what}{more}", highlight=False, soft_wrap=True)
            return
        if self._bar is None or self._task is None:
            self._bar = Progress(console=self._console)
            self._task = self._bar.add_task(what, total=1.0)
            self._bar.start()
        self._bar.update(self._task, description=what, completed=share)
