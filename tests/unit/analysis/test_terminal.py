"""Tables as wide as a terminal: nothing is cut off, nothing is lost."""

from __future__ import annotations

import io
import re

import html5lib
import pytest
from rich.console import Console

from analysis.aggregate import Estimate
from analysis.page.writing import tables_as_html
from analysis.render.table import Entry, Row, Table
from analysis.render.terminal import print_fitted


def of(mean: float, seeds: int = 3) -> Estimate:
    return Estimate(mean, seeds, mean - 0.1, mean + 0.1, "t")


def table(*, num_scores: int = 4, seeds: int = 3, label: str = "lemoe") -> Table:
    scores = {f"score_{i}": f"Score {i}" for i in range(num_scores)}
    return Table(
        "made_up: a table",
        ("Method", "ours"),
        scores,
        (
            Row((label, "a"), tuple(Entry(of(i / 10), 0.5) for i in range(num_scores))),
            Row(
                ("GRACE", "b"),
                tuple(Entry(of(0.9, seeds), "not in the paper") for _ in range(num_scores)),
            ),
            Row(("MEND", "c"), tuple(Entry("failed 1/3", 0.25) for _ in range(num_scores))),
        ),
        {"backbone": "facts"},
        notes=("cells: mean of ours (number of seeds) / paper", "a note"),
        footer=("below it",),
    )


def printed(*tables: Table, width: int) -> str:
    out = io.StringIO()
    print_fitted(tables, Console(file=out, width=width, highlight=False, color_system=None))
    return out.getvalue()


def test_terminal_then_a_row_has_the_papers_value_under_ours() -> None:
    lines = [line.split() for line in printed(table(num_scores=2), width=100).splitlines()]
    at = lines.index(["lemoe", "a", "0.00", "±", "0.10", "0.10", "±", "0.10"])
    assert lines[at + 1] == ["0.50", "0.50"]
    assert ["GRACE", "b", "0.90", "±", "0.10", "0.90", "±", "0.10"] in lines
    assert ["-", "-"] in lines
    assert ["MEND", "c", "failed", "1/3", "failed", "1/3"] in lines
    assert [line for line in lines if line and line[0] in ("backbone:", "a", "below")] == [
        ["backbone:", "facts"],
        ["a", "note"],
        ["below", "it"],
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_terminal_then_every_line_fits_and_every_cell_is_there(width: int) -> None:
    text = printed(table(num_scores=8), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert [text.count(f"{i / 10:.2f} ± 0.10") for i in range(8)] == [1] * 8
    assert [len(re.findall(rf"Score {i}\b", text)) for i in range(8)] == [1] * 8
    assert text.count("failed 1/3") == 8


def test_terminal_when_a_name_looks_like_markup_then_it_stands_as_it_is() -> None:
    made = table(label="anchor=[entity,subject]")
    assert "anchor=[entity,subject]" in printed(made, width=120)
    assert "[/close] :smile:" in printed(table(label="[/close] :smile:"), width=120)


def test_terminal_when_seeds_differ_then_each_cell_says_how_many() -> None:
    text = printed(table(), width=100)
    assert "(3)" not in text
    assert "cells: mean of ours; second line: the paper's" in text
    text = printed(table(seeds=2), width=100)
    assert text.count("(3)") == 4
    assert text.count("(2)") == 4


def test_terminal_when_a_label_is_long_then_it_wraps_before_columns_are_moved() -> None:
    text = printed(table(label="without_the_balancing_constraint_loss"), width=100)
    assert text.count("Method") == 1
    assert "without_the_balancing_" in text


def test_html_then_a_strict_parser_takes_it_and_every_cell_is_there() -> None:
    html = tables_as_html([table(), table(num_scores=1)])
    html5lib.HTMLParser(strict=True).parse(html)
    assert html.count("0.30 ± 0.10 (3)") == 1
    assert html.count("paper: 0.50") == 5
    assert "a note" in html
    assert "cells: mean of ours (number of seeds)<" in html
