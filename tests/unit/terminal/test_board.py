import gc
import re
import threading
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.settings.metrics import compared
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.rows import LabelledRow
from orchestrator.terminal.board import NUM_IN_LINE, Board, Building
from orchestrator.terminal.tally import at_the_end
from orchestrator.terminal.waiting import Waiting
from tests.unit.terminal.test_running_trials import write
from trainables.pulse import Moment


def ended(arm: str, value: float, status: str = "finished") -> LabelledRow:
    metrics = {f"{score}.token.final": value for score in ("reliability", "generality")}
    metrics["locality_far.token.final"] = value
    told = metrics if status == "finished" else {}
    return LabelledRow(
        EndRow(arm, status, metrics=told, error="loss is nan"), {"arm": arm}, {}, arm
    )


def said(is_terminal: bool) -> str:
    console = Console(file=StringIO(), force_terminal=is_terminal, width=100)
    with Board(4, console) as board:
        board.ended(ended("good", 0.9))
        board.ended(ended("good", 0.7))
        board.ended(ended("poor", 0.2))
        board.ended(ended("broken", 0.0, "diverged"))
    text = console.file
    assert isinstance(text, StringIO)
    return text.getvalue()


def test_board_without_a_terminal_prints_plain_lines() -> None:
    text = said(is_terminal=False)
    assert "diverged: broken: loss is nan" in text
    assert "4/4 trials (1 diverged, 3 finished)" in text
    assert "best good 0.80" in text  # (0.9 + 0.7) / 2
    assert "\x1b" not in text


def test_board_on_a_terminal_ranks_the_arms() -> None:
    last = said(is_terminal=True).rsplit("best arms so far", 1)[1]
    assert last.index("good") < last.index("poor")
    assert "0.80" in last


def test_average_when_a_score_is_missing_then_none() -> None:
    average = compared("average.token").on({"locality": "far"})
    two = {"reliability.token.final": 1.0, "generality.token.final": 1.0}
    assert at_the_end(two, average) is None
    three = {**ended("a", 0.0).end.metrics, "reliability.token.final": 0.9}
    assert at_the_end(three, average) == pytest.approx(0.3)


def test_board_when_the_smallest_is_best_then_it_leads_under_its_own_name() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=100)
    with Board(2, console, compared=compared("perplexity.mean")) as board:
        for arm, value in (("poor", 90.0), ("good", 7.5)):
            row = ended(arm, 0.5)
            end = replace(row.end, metrics={**row.end.metrics, "perplexity.mean.final": value})
            board.ended(replace(row, end=end))
    assert isinstance(console.file, StringIO)
    last = console.file.getvalue().rsplit("best arms so far", 1)[1]
    assert "perplexity.mean" in last
    assert last.index("good") < last.index("poor")


def test_building_without_a_terminal_says_when_it_is_done() -> None:
    console = Console(file=StringIO(), force_terminal=False, width=100)
    with Building(console=console) as building:
        building.advance(1, 300, 5.0)
        building.advance(2, 300, 4.0)
        building.advance(300, 300, 0.02)
    text = console.file
    assert isinstance(text, StringIO)
    lines = text.getvalue().splitlines()
    assert len(lines) == 2  # the first, and the end; not every step
    assert "step 300/300, loss 0.020" in lines[-1]


class Heard(StringIO):
    """Tells when something was said in it that holds a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word
        self.is_said = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        if self._word in self.getvalue():
            self.is_said.set()
        return count


def test_what_is_fetched_after_the_checks_gets_lines_and_nothing_begins_to_wait_again() -> None:
    console = Console(file=StringIO(), force_terminal=False)
    with Waiting("checking", console) as waiting, Building(waiting, console) as building:
        pass
    building.converting("fetching an encoder", 1.0)
    assert isinstance(console.file, StringIO)
    assert "fetching an encoder: 100%" in console.file.getvalue()
    del building, waiting
    gc.collect()
    # A pause that is left open would start to show again where it is forgotten, at the very end.
    assert "waiting" not in {thread.name for thread in threading.enumerate()}


def test_board_without_a_terminal_speaks_though_no_trial_ends(tmp_path: Path) -> None:
    for number in range(NUM_IN_LINE + 2):
        write(tmp_path / "pulses", f"f{number}")
    heard = Heard("and 2 more")
    console = Console(file=heard, force_terminal=False, width=100)
    with Board(9, console, tmp_path / "pulses", say_seconds=0.05) as board:
        board.stage("starting Ray")
        assert heard.is_said.wait(30)
    line = next(line for line in heard.getvalue().splitlines() if "and 2 more" in line)
    assert line.startswith("0/9 trials; arm of f0: starting 0:04, 0:04; arm of f1: ")
    assert not (tmp_path / "pulses").exists()


def test_board_says_what_the_driver_does_until_a_trial_says_something() -> None:
    heard = Heard("starting Ray, 0:0")
    with Board(3, Console(file=heard, width=100), say_seconds=0.05) as board:
        board.stage("starting Ray")
        assert heard.is_said.wait(30)
        board.ended(ended("good", 0.9))
        assert "starting Ray" not in board._line()
    assert heard.getvalue().splitlines()[-1] == (
        "1/3 trials (1 finished), 0:00 left; best good 0.90"
    )


def test_board_on_a_narrow_terminal_keeps_what_a_trial_does_and_cuts_its_name(
    tmp_path: Path,
) -> None:
    long = "lemoe_lora edit_layer=12 lora_rank=16 num_experts=10 top_k=5 and more of it"
    made = write(tmp_path / "pulses", "f1")
    made._name = f"{long} · seed 1"
    made.say(Moment("editing", 12, 40, 99, 100, 1234.5))
    made.write()
    screen = Console(file=StringIO(), force_terminal=True, width=80)
    board = Board(40, screen, tmp_path / "pulses")
    board.ended(ended(long, 0.9))
    board._tally.look()
    text = StringIO()
    Console(file=text, width=80).print(board._picture())
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    [shown] = [line for line in lines if "step 99/100" in line]
    # 80 - 51 = 29 signs: 14, the one for what is left out, and 14.
    assert shown.startswith("lemoe_lora edi…of it · seed 1  batch 12/40, ")
    assert shown.rstrip().endswith("step 99/100, loss 1.23e+03  0:04")
    assert any(
        line.startswith("lemoe_lora edit") and line.endswith("0.90      1") for line in lines
    )
    assert re.search(
        r"^running +doing +time$", "\n".join(line.rstrip() for line in lines), re.MULTILINE
    )  # not behind the bar


def test_waiting_without_a_terminal_speaks_now_and_then_and_not_while_paused() -> None:
    heard = Heard("5 left")
    with Waiting("loading", Console(file=heard, width=100), say_seconds=0.05) as waiting:
        waiting.now(lambda: "writing, 5 left")
        assert heard.is_said.wait(30)
        with waiting.paused():
            before = heard.getvalue()
            assert not waiting._thread
            assert heard.getvalue() == before
        assert waiting._thread
    assert re.search(r"^writing, 5 left: \d+ s$", heard.getvalue(), re.MULTILINE)


def test_waiting_on_a_terminal_leaves_no_line_behind() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80)
    with Waiting("loading libraries", console):
        pass
    text = console.file
    assert isinstance(text, StringIO)
    shown = text.getvalue()
    assert "loading libraries: 0 s" in shown
    assert shown.rindex("\x1b[2K") > shown.rindex("loading libraries")  # and wiped out again
