from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import LedgerError
from orchestrator.running.interruption import Interruption
from orchestrator.running.watchdog import Watchdog
from orchestrator.store.copies import Copies
from orchestrator.store.leases import Leases
from orchestrator.terminal.board import Board
from orchestrator.terminal.waiting import Waiting
from orchestrator.threads import uninterrupted
from orchestrator.tracking.apart import TrackerProcess
from tests.interrupting import ctrl_c_while_a_thread_begins

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture(autouse=True)
def python_handler() -> Iterator[None]:
    """Ctrl-C raises, also where the tests run in the background, which begins without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_deferred_when_the_library_fails_behind_our_own_failure_then_ours_is_the_reason() -> None:
    interruption = Interruption()

    def run() -> None:
        with interruption.deferred():
            interruption.fail(LedgerError("cannot append: No space left on device"))
            assert interruption.is_over
            raise EOFError("Ran out of input")  # of a file that the library could not write

    with pytest.raises(LedgerError, match="No space left on device"):
        run()


def test_deferred_when_the_library_alone_fails_then_its_error_comes_out() -> None:
    def run() -> None:
        with Interruption().deferred():
            raise EOFError("Ran out of input")

    with pytest.raises(EOFError):
        run()


def test_uninterrupted_when_ctrl_c_comes_inside_then_it_is_raised_at_the_end() -> None:
    done = []

    def block() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done
    with pytest.raises(KeyboardInterrupt):  # as before the block
        signal.raise_signal(signal.SIGINT)


def _leases(folder: Path) -> None:
    leases = Leases(folder / "a.jsonl")
    try:
        leases.claim(["key"], 1, set)
    finally:
        leases.close()


def _copies(folder: Path) -> None:
    copies = Copies(folder, (folder / "bucket").as_uri())
    try:
        copies.begin(folder / "ledger" / "a.jsonl")
    finally:
        assert not copies.close()


def _tracker(folder: Path) -> None:
    tracker = TrackerProcess(folder, "ablation")  # starts its process with the first row, or now
    tracker.close()


def _watchdog(folder: Path) -> None:
    with Watchdog(Interruption(), None, lambda: 0, lambda: ""):
        pass


@pytest.mark.parametrize("begin", [_leases, _copies, _tracker, _watchdog])
def test_ctrl_c_while_a_thread_begins_then_that_alone_is_raised_and_nothing_goes_on(
    begin: Callable[[Path], None], tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), ctrl_c_while_a_thread_begins():
        begin(tmp_path)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive(), thread


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("shown", [Waiting, Board])
def test_ctrl_c_while_something_is_first_shown_then_nothing_moves_and_the_cursor_is_back(
    shown: type[Waiting] | type[Board], is_terminal: bool
) -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=is_terminal)
    before = set(threading.enumerate())
    there = Waiting("stage", console) if shown is Waiting else Board(1, console)
    with pytest.raises(KeyboardInterrupt), ctrl_c_while_a_thread_begins(), there:
        pass
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive(), thread
    assert text.getvalue().rpartition(HIDE_CURSOR)[2].count(SHOW_CURSOR) == is_terminal
