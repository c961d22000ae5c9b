"""Points of one score against another are those that the table holds."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.errors import AnalysisError
from analysis.figures import scatter
from analysis.figures.style import styled
from analysis.render.table import Entry
from tests.unit.analysis.test_figures import CURVE, METHODS, drawn, marks, of, table


def test_scatter_when_a_score_is_spread_then_its_points_stand_group_beside_group() -> None:
    groups = ("few", "many")
    scores = {
        f"{name}_{group}": f"{group} {head}"
        for group in groups
        for name, head in (("reliability", "Rel."), ("between_batch_similarity", "BBS"))
    }
    rows = [
        ((f"order={i}",), tuple(Entry(of(x)) for x in (rel, 0.9 + rel / 100, rel / 2, 0.8)))
        for i, rel in enumerate((0.4, 0.8, 0.4))
    ]
    made = table(["Shuffle"], scores, rows, {key: key.rpartition("_")[2] for key in scores})
    pairs = [("between_batch_similarity", "reliability")]
    spread, first, second = drawn(
        lambda made: scatter.one_against_another(
            made, pairs, is_named=False, spread_of="reliability"
        ),
        made,
    )
    points = marks(spread, hollow=False)
    assert sorted(y for x, y in points if x < 1.5) == [0.4, 0.4, 0.8]
    assert sorted(y for x, y in points if x > 1.5) == [0.2, 0.2, 0.4]
    assert [text.get_text() for text in spread.get_xticklabels()] == ["few", "many"]
    medians = [
        float(np.mean(line.get_ydata())) for line in spread.lines if len(line.get_ydata()) == 2
    ]
    assert {0.4, 0.2} <= set(medians)
    assert (first.get_title(), second.get_title()) == ("few", "many")


def test_scatter_then_each_row_is_a_point_of_two_scores() -> None:
    (axes,) = drawn(
        lambda made: scatter.one_against_another(made, [("reliability", "average")]), METHODS
    )
    assert marks(axes, hollow=False) == [(0.7, 0.6), (0.8, 0.5)]
    assert marks(axes, hollow=True) == [(0.1, 0.2), (0.9, 0.6)]


def test_scatter_when_the_paper_prints_no_x_then_its_y_stands_at_the_edge() -> None:
    rows = [
        (("GRACE",), (Entry(of(0.8)), Entry(of(0.5), 0.6))),
        (("WISE",), (Entry("-"), Entry("-", 0.7))),
    ]
    made = table(["Method"], {"own_expert_rate": "Route Acc.", "average": "Avg."}, rows)
    with styled():
        figure_ = scatter.one_against_another(made, [("own_expert_rate", "average")])
    (axes,) = figure_.axes
    assert marks(axes, hollow=False) == [(0.8, 0.5)]
    assert marks(axes, hollow=True) == [(1.0, 0.6), (1.0, 0.7)]
    told = " ".join(text.get_text() for text in figure_.texts).replace("\n", " ")
    assert "hollow at the right edge: the paper's, which prints no Route Acc." in told
    (legend,) = figure_.legends
    assert [text.get_text() for text in legend.get_texts()] == ["GRACE", "WISE"]


def test_agreement_then_only_cells_that_both_have_count() -> None:
    rows = [
        ((str(i),), (Entry(of(ours), paper),))
        for i, (ours, paper) in enumerate(
            [(0.1, 0.2), (0.3, 0.4), (0.2, 0.3), (0.9, "not printed")]
        )
    ]
    (axes,) = drawn(scatter.ours_against_theirs, table(["Row"], {"average": "Avg."}, rows))
    assert marks(axes, hollow=False) == [(0.2, 0.1), (0.3, 0.2), (0.4, 0.3)]
    assert axes.get_title() == "Avg.\nSpearman 1.00 (3)"


def test_agreement_when_columns_are_grouped_then_each_has_its_own_correlation() -> None:
    values = [(0.1, 0.9), (0.2, 0.8), (0.3, 0.7)]
    rows = [
        ((f"m{i}",), (Entry(of(one), one), Entry(of(one), other)))
        for i, (one, other) in enumerate(values)
    ]
    groups = {"average_batch": "batch", "average_stream": "stream"}
    made = table(["Row"], {key: f"{group} Avg." for key, group in groups.items()}, rows, groups)
    (axes,) = drawn(scatter.ours_against_theirs, made)
    title = axes.get_title().split("\n")
    assert title == ["Avg.", "batch Spearman 1.00 (3)", "stream Spearman -1.00 (3)"]


def test_agreement_when_nothing_is_published_then_that_is_an_error() -> None:
    with pytest.raises(AnalysisError, match="no cell has both"):
        scatter.ours_against_theirs(CURVE)
