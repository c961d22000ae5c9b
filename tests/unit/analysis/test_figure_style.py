"""Colours and marks tell series apart, and a style leaves nothing behind."""

from __future__ import annotations

import matplotlib as mpl

from analysis.figures.catalogue import drawing
from analysis.figures.style import COLOURS, colour_of, framed, in_rows, marker_of, styled
from analysis.render.table import Table
from tests.unit.analysis.test_figures import GRID, METHODS, drawn


def test_series_then_49_are_told_apart() -> None:
    assert len({(colour_of(i), marker_of(i)) for i in range(49)}) == 49
    assert len({colour_of(i) for i in range(7)}) == len(COLOURS)


def test_in_rows_then_a_legend_is_read_along_its_rows() -> None:
    # Matplotlib fills the three columns with 3, 2 and 2 entries.
    assert in_rows(list("abcdefg"), 3) == list("adgbecf")  # type: ignore[arg-type]


def test_framed_then_the_small_print_says_what_the_paper_and_the_columns_are_of() -> None:
    notes = ("differs from the paper: backbone", "another", "columns T=100: ours 13 questions")
    made = Table("made_up", ("Arm",), {}, (), {"backbone": "facts"}, notes)
    long = "Spearman over the rows that both have: " + ", ".join(["Rel. 0.10 (n = 8)"] * 9)
    figure, _ = framed(made, 6.5, 2.0, notes=[long])
    told = figure.texts[1].get_text()
    assert "differs from the paper: backbone · columns T=100: ours 13 questions" in told
    assert "another" not in told
    assert all(line.count("(n = 8)") == line.count("(n") for line in told.split("\n"))


def test_styled_then_nothing_of_it_stays() -> None:
    before = mpl.rcParams["svg.hashsalt"]
    with styled():
        assert mpl.rcParams["svg.hashsalt"] == "figure"
    assert mpl.rcParams["svg.hashsalt"] == before


def test_drawing_when_a_table_is_not_named_then_its_form_decides() -> None:
    assert drawn(drawing("lemoe_lora", "auto"), GRID)[0].images
    assert not drawn(drawing("an_ablation", "auto"), METHODS)[0].images
