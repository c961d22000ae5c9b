"""Colours and marks tell series apart, and a style leaves nothing behind."""

from __future__ import annotations

import matplotlib as mpl

from analysis.figures.style import COLOURS, colour_of, marker_of, styled


def test_series_then_49_are_told_apart() -> None:
    assert len({(colour_of(i), marker_of(i)) for i in range(49)}) == 49
    assert len({colour_of(i) for i in range(7)}) == len(COLOURS)


def test_styled_then_nothing_of_it_stays() -> None:
    before = mpl.rcParams["svg.hashsalt"]
    with styled():
        assert mpl.rcParams["svg.hashsalt"] == "figure"
    assert mpl.rcParams["svg.hashsalt"] == before
