from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from orchestrator.progress import Board, Building, average


def ended(arm: str, value: float, status: str = "finished") -> dict[str, Any]:
    metrics = {f"{score}.token.final": value for score in ("reliability", "generality")}
    metrics["locality_far.token.final"] = value
    return {
        "status": status,
        "metrics": metrics if status == "finished" else {},
        "tags": {"arm": arm},
        "run_name": arm,
        "error": "loss is nan",
    }


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
    assert average({"reliability.token.final": 1.0, "generality.token.final": 1.0}) is None
    three = ended("a", 0.0)["metrics"] | {"reliability.token.final": 0.9}
    assert average(three) == pytest.approx(0.3)


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
