"""Shows what the driver is doing while no trial runs, so that nobody thinks it hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from orchestrator.threads import uninterrupted

SAY_SECONDS = 10.0  # between two lines where there is no terminal


class Waiting:
    """A moving line on a terminal, elsewhere one every ten seconds; in a thread of its own."""

    def __init__(
        self,
        stage: str | Callable[[], str],
        console: Console | None = None,
        say_seconds: float = SAY_SECONDS,
    ) -> None:
        """Show nothing before the block begins; `stage` is the first thing that happens."""
        self._console = console or Console(stderr=True)
        self._say_seconds = say_seconds
        self._stage, self._since = stage, time.monotonic()
        self._is_over = threading.Event()
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        self._spinner = Spinner("dots")

    def __enter__(self) -> Waiting:
        try:
            self._begin()
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

    def now(self, stage: str | Callable[[], str]) -> None:
        """Show another stage from now on; a function is called anew each time it is shown."""
        self._stage, self._since = stage, time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Show nothing during the block, which prints something itself."""
        self._end()
        try:
            yield
        finally:
            self._since = time.monotonic()
            self._begin()

    def _begin(self) -> None:
        self._is_over.clear()
        with uninterrupted():
            if self._console.is_terminal:
                self._live = Live(
                    get_renderable=self._picture,
                    console=self._console,
                    transient=True,
                    refresh_per_second=8,
                    redirect_stdout=False,  # it may be a file
                )
                self._live.start()
            else:
                self._thread = threading.Thread(target=self._speak, name="waiting", daemon=True)
                self._thread.start()

    def _end(self) -> None:
        self._is_over.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()
        self._live = self._thread = None

    def _speak(self) -> None:
        while not self._is_over.wait(self._say_seconds):
            self._console.print(self._line(), highlight=False, soft_wrap=True, markup=False)

    def _picture(self) -> Spinner:
        self._spinner.update(text=self._line())
        return self._spinner

    def _line(self) -> str:
        stage = self._stage if isinstance(self._stage, str) else self._stage()
        return f"{stage}: {time.monotonic() - self._since:.0f} s"
