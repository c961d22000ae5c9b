"""Text of cells, and the three formats."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from analysis.aggregate import Estimate
from analysis.render.documents import notes, render
from analysis.render.table import Entry, Row, Table, entry_text

T = Estimate(0.834, 3, 0.784, 0.884, "t")


def table(*rows: Row) -> Table:
    return Table(
        title="made_up: a table",
        labels=("Layer",),
        scores={"reliability": "Rel."},
        rows=rows,
        context={"backbone": "facts", "commit": "0123 (dirty)"},
        notes=("a note",),
        footer=("Spearman 0.50 (n = 4)",),
    )


ROWS = (Row(("18",), (Entry(T, 0.8),)), Row(("20",), (Entry("failed 1/3", "not printed"),)))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Entry(T, 0.8), "0.83 ± 0.05 (3) / 0.80"),
        (Entry(Estimate(0.5, 1, 0.25, 0.75, "bootstrap"), 0.8), "0.50 [0.25, 0.75] (1) / 0.80"),
        (Entry(Estimate(1.0, 2)), "1.00 (2)"),
        (Entry(Estimate(-0.001, 2, -0.004, 0.2, "bootstrap")), "0.00 [0.00, 0.20] (2)"),
        (Entry("pruned 2/3", "not printed"), "pruned 2/3 / not printed"),
    ],
)
def test_entry_text_when_given_each_kind_then_two_decimals(entry: Entry, text: str) -> None:
    assert entry_text(entry) == text


def test_render_when_markdown_then_context_above_and_footer_below() -> None:
    text = render([table(*ROWS)], "markdown")
    order = ["## made_up", "backbone: facts", "0123 (dirty)", "a note", "| 18", "Spearman"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "| 20      | failed 1/3 / not printed |" in text


def test_render_when_csv_then_numbers_stand_in_full_with_their_context() -> None:
    frame = pd.read_csv(io.StringIO(render([table(*ROWS)], "csv")))
    first, second = frame.iloc[0], frame.iloc[1]
    assert float(first["reliability"]) == 0.834
    assert (float(first["reliability_low"]), first["reliability_seeds"]) == (0.784, 3)
    assert (float(first["reliability_paper"]), first["commit"]) == (0.8, "0123 (dirty)")
    assert (second["reliability"], second["reliability_paper"]) == ("failed 1/3", "not printed")
    assert not frame.isna().any().any()


def test_render_when_latex_then_special_characters_are_escaped() -> None:
    text = render([table(Row(("a_b & 5%",), (Entry(T),)))], "latex")
    assert r"a\_b \& 5\% & 0.83 ± 0.05 (3) \\" in text
    assert text.startswith("% made_up: a table\n% backbone: facts\n")


def test_notes_when_csv_then_they_are_still_to_be_had() -> None:
    assert "Spearman 0.50" in notes([table()])


def test_render_when_a_label_has_several_lines_then_its_row_is_one() -> None:
    text = render([table(Row(("{prompt} {target}.\nPrompt:",), (Entry(T),)))], "markdown")
    (line,) = (line for line in text.splitlines() if "Prompt:" in line)
    assert line.startswith(r"| {prompt} {target}.\nPrompt: |")
