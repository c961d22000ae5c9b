"""The measure of a published table: named for each layout, and what the digits say."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.errors import PaperNumbersError
from analysis.layouts.catalogue import known_layouts
from analysis.metrics import MEASURES
from analysis.published.measures import measure_of, published_measures
from analysis.published.paper_numbers import load

OURS = {"as_printed", "everyone", "presets"}  # of no paper


def test_every_published_layout_names_its_measure_and_why() -> None:
    known = published_measures()
    assert set(known) == set(known_layouts()) - OURS
    assert all(each.measure in MEASURES and each.why for each in known.values())


@pytest.mark.parametrize(
    ("table", "counts", "odd"),
    [("lemoe_table9", (30,), 0), ("memoe_v1_table6", (330, 630), 3)],
)
def test_measure_when_all_values_are_shares_of_so_many_answers_then_whole_ones_are_counted(
    table: str, counts: tuple[int, ...], odd: int
) -> None:
    digits = 2 if table == "lemoe_table9" else 4  # of a fraction: the paper prints per cent
    values = [
        value
        for row in load(table)
        for name in ("reliability", "generality")
        if (value := row.score(name)) is not None
    ]
    strangers = [
        value
        for value in values
        if all(round(round(value * n) / n, digits) != round(value, digits) for n in counts)
    ]
    assert len(strangers) == odd
    assert published_measures()[table].measure == "exact"


def test_measure_when_a_value_is_no_share_of_the_edits_then_tokens_are_counted() -> None:
    (value,) = [
        row.score("generality")
        for row in load("memoe_v1_table4")
        if row.num_edits == 1000 and row.batch_size == 10
    ]
    assert value == 0.4263  # the same run as in Table 2
    assert published_measures()["memoe_v1_table2"].measure == "token"


def test_measure_of_tables_that_differ_then_the_usual_one() -> None:
    assert measure_of(["lemoe_table9"]) == "exact"
    assert measure_of(["lemoe_table9", "lemoe_table8"]) == "token"
    assert measure_of([]) == measure_of(["of_nobody"]) == "token"


def test_measure_when_the_file_names_none_that_there_is_then_says_which_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "measures.csv").write_text("table,measure,why\nlemoe_table9,exactly,digits\n")
    with pytest.raises(PaperNumbersError, match=r"lemoe_table9: measure is 'exactly'; allowed: to"):
        published_measures(tmp_path)
