"""What is drawn is what the table holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.aggregate import Estimate
from analysis.errors import AnalysisError
from analysis.figures import curve, dots, heat_map
from analysis.figures.catalogue import drawing
from analysis.figures.cells import number_of
from analysis.figures.style import store, styled
from analysis.render.table import Entry, Row, Table


def of(mean: float, half: float = 0.1) -> Estimate:
    return Estimate(mean, 3, mean - half, mean + half, "t")


def table(
    labels: Sequence[str],
    scores: dict[str, str],
    rows: Sequence[tuple[tuple[str, ...], tuple[Entry, ...]]],
    groups: dict[str, str] | None = None,
) -> Table:
    return Table(
        "made_up: a table",
        tuple(labels),
        scores,
        tuple(Row(*row) for row in rows),
        {"backbone": "facts", "commit": "0123"},
        groups=groups or {},
    )


METHODS = table(
    ["Method", "ours"],
    {"reliability": "Rel.", "average": "Avg."},
    [
        (("GRACE", "grace"), (Entry(of(0.8), 0.9), Entry(of(0.5), 0.6))),
        (("MEND", "not run"), (Entry("not run", 0.1), Entry("not run", 0.2))),
        (("lemoe", "lemoe"), (Entry(of(0.7), "not in the paper"), Entry(of(0.6)))),
        (("diverging", "x"), (Entry("diverged"), Entry("diverged"))),
    ],
)


def marks(axes: Axes, *, hollow: bool) -> list[tuple[float, float]]:
    """Points with a mark, filled or hollow, by place."""
    return sorted(
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() not in ("None", "")
        and (line.get_markerfacecolor() == "none") == hollow
        for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
    )


def bars(axes: Axes) -> list[tuple[float, float]]:
    """Ends along x of lines without marks."""
    return sorted(
        (float(min(line.get_xdata())), float(max(line.get_xdata())))
        for line in axes.lines
        if line.get_marker() == "None"
    )


def drawn(draw: Callable[[Table], Figure], of_table: Table) -> list[Axes]:
    with styled():
        return draw(of_table).axes


def test_dots_then_means_intervals_and_published_values_are_those_of_the_table() -> None:
    rel, avg = drawn(dots.draw, METHODS)
    assert (rel.get_title(), avg.get_title()) == ("Rel.", "Avg.")
    rows = ["GRACE", "MEND", "lemoe", "diverging"]
    assert [text.get_text() for text in rel.get_yticklabels()] == rows
    assert [(text.get_text(), text.get_position()[1]) for text in rel.texts] == [("diverged", 3)]
    assert marks(rel, hollow=False) == [(0.7, 2.0), (0.8, 0.0)]
    assert marks(rel, hollow=True) == [(0.1, 1.0), (0.9, 0.0)]
    np.testing.assert_allclose(bars(rel), [(0.6, 0.8), (0.7, 0.9)])


def test_dots_when_several_rows_have_one_label_then_the_arm_of_ours_tells_them_apart() -> None:
    made = table(
        ["Layer", "Topk", "Rank", "ours at"],
        {"average": "Avg."},
        [
            (("30", "1", "16", "a"), (Entry(of(0.1)),)),
            (("30", "10", "16", "b"), (Entry(of(0.2)),)),
            (("30", "10", "16", "c"), (Entry(of(0.3)),)),
        ],
    )
    (axes,) = drawn(dots.draw, made)
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [
        "Layer 30 · Topk 1 · Rank 16",
        *(f"Layer 30 · Topk 10 · Rank 16 · {arm}" for arm in "bc"),
    ]
    named = table(
        ["Method", "Arm"], {"average": "Avg."}, [(("arm", "arm_printed"), (Entry(of(0.1)),))]
    )
    (axes,) = drawn(dots.draw, named)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["arm_printed"]


def test_dots_when_a_score_is_no_share_then_its_axis_is_its_own() -> None:
    made = table(
        ["Method"],
        {"edit_seconds": "Edit s", "reliability": "Rel."},
        [(("lemoe",), (Entry(of(0.02, 0.01)), Entry(of(0.02, 0.01))))],
    )
    seconds, rel = drawn(dots.draw, made)
    assert seconds.get_xlim()[1] < 0.1
    assert rel.get_xlim() == (-0.04, 1.04)


def test_dots_when_values_lie_far_apart_then_the_axis_is_logarithmic() -> None:
    scores = {"edit_seconds": "Edit s", "edit_state_bytes": "MB", "reliability": "Rel."}
    rows = [
        (("a",), (Entry(of(0.02, 0.0), 1800.0), Entry(of(0.0, 0.0), 90.0), Entry(of(0.001)))),
        (("b",), (Entry(of(0.4, 0.0), 14.0), Entry(of(5.0, 0.0), 70.0), Entry(of(0.9)))),
    ]
    axes = drawn(dots.draw, table(["Method"], scores, rows))
    assert [each.get_xscale() for each in axes] == ["log", "linear", "linear"]  # one holds a zero
    assert "$" not in axes[0].xaxis.get_major_formatter()(1000.0)


def test_dots_when_an_arm_without_a_mean_stands_beside_the_papers_mark_then_both_are_read() -> None:
    rows = [((str(value),), (Entry("failed 1/3", value),)) for value in (0.1, 0.9)]
    (axes,) = drawn(dots.draw, table(["Method"], {"reliability": "Rel."}, rows))
    where = [(text.get_position()[0] > 0.5, text.get_ha()) for text in axes.texts]
    assert where == [(True, "right"), (False, "left")]


def test_figure_when_a_name_has_dollars_then_it_is_drawn_as_it_stands(tmp_path: Path) -> None:
    made = table(["Arm"], {"average": "Avg."}, [(("a $x_$ b",), (Entry(of(0.1)),))])
    with styled():
        store(dots.draw(made), tmp_path / "one.svg")
    assert "a $x_$ b" in (tmp_path / "one.svg").read_text("utf-8")


def test_dots_when_columns_are_grouped_then_groups_stand_beside_each_other_in_a_row() -> None:
    grouped = table(
        ["Method"],
        {"average_t100": "T=100 Avg.", "average_t1000": "T=1000 Avg."},
        [(("lemoe",), (Entry(of(0.8)), Entry(of(0.6))))],
        {"average_t100": "T=100", "average_t1000": "T=1000"},
    )
    (axes,) = drawn(dots.draw, grouped)
    assert axes.get_title() == "Avg."
    (low, above), (high, below) = marks(axes, hollow=False)
    assert (low, high) == (0.6, 0.8)
    assert above > 0 > below  # T=1000 under T=100, as in the legend
    assert above == -below


def test_dots_by_first_label_then_one_row_for_each_second_label() -> None:
    crossed = table(
        ["Protocol", "Method"],
        {"average": "Avg.", "edit_seconds": "Edit s"},
        [
            (("batch", "grace"), (Entry(of(0.7)), Entry(of(1.0)))),
            (("stream", "grace"), (Entry(of(0.5)), Entry(of(1.0)))),
            (("stream", "memit_mass"), (Entry(of(0.4)), Entry(of(1.0)))),
        ],
    )
    (axes,) = drawn(dots.by_first_label, crossed)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["grace", "memit_mass"]
    assert [x for x, _ in marks(axes, hollow=False)] == [0.4, 0.5, 0.7]


CURVE = table(
    ["Part", "ours"],
    {"reliability.immediate": "Rel. at once", "reliability": "Rel. at the end"},
    [
        (("batch 1", ""), (Entry(of(1.0)), Entry(of(0.2)))),
        (("batch 2", ""), (Entry(of(0.9)), Entry(of(0.4)))),
        (("batch 10", ""), (Entry(of(0.8)), Entry("not measured"))),
    ],
)


def test_curve_then_rows_stand_at_their_numbers() -> None:
    (axes,) = drawn(curve.over_rows, CURVE)
    at_once, at_the_end = (line for line in axes.lines if line.get_marker() != "None")
    assert list(np.asarray(at_once.get_xdata())) == [1, 2, 10]
    assert list(np.asarray(at_once.get_ydata())) == [1.0, 0.9, 0.8]
    assert list(np.asarray(at_the_end.get_xdata())) == [1, 2]
    assert (at_once.get_linestyle(), at_the_end.get_linestyle()) == ("--", "-")
    assert at_once.get_color() == at_the_end.get_color()


def test_curve_when_some_rows_have_no_number_then_they_stand_alone() -> None:
    rows = [(("bucket 1",), 0.9), (("bucket 2",), 0.8), (("head",), 0.5)]
    made = table(
        ["Edits"], {"average": "Avg."}, [(label, (Entry(of(value)),)) for label, value in rows]
    )
    axes = drawn(curve.over_rows, made)
    assert [each.get_title() for each in axes] == ["bucket", "head"]
    grouped = table(
        ["Edits"],
        {"average_grace": "grace Avg."},
        [(label, (Entry(of(value)),)) for label, value in rows],
        {"average_grace": "grace"},
    )
    (one,) = drawn(curve.over_rows, grouped)
    lines = [line for line in one.lines if line.get_marker() != "None"]
    assert [list(np.asarray(line.get_ydata())) for line in lines] == [[0.9, 0.8], [0.5]]


def test_curve_when_one_kind_has_numbers_and_names_then_they_share_a_panel() -> None:
    places = ["layer 4", "layer 16", "routing soft", "routing top_1", "routing top_2"]
    rows = [((place,), (Entry(of(0.5)),)) for place in places]
    layer, routing = drawn(curve.over_rows, table(["Panel"], {"average": "Avg."}, rows))
    assert [axes.get_title() for axes in (layer, routing)] == ["layer", "routing"]
    assert [text.get_text() for text in routing.get_xticklabels()] == ["soft", "top_1", "top_2"]
    lines = [line for line in routing.lines if line.get_marker() != "None"]
    assert [len(np.asarray(line.get_xdata())) for line in lines] == [1, 2]


def test_curve_when_nothing_of_ours_stands_in_a_panel_then_it_says_so() -> None:
    made = table(
        ["Panel"],
        {"average": "Avg."},
        [
            (("layer 4",), (Entry(of(0.5), 0.6),)),
            (("experts 2",), (Entry("not run", 0.6),)),
        ],
    )
    layer, experts = drawn(curve.over_rows, made)
    assert [text.get_text() for text in (*layer.texts, *experts.texts)] == ["ours: not run"]


def test_curve_when_many_rows_are_counted_then_the_ticks_are_whole() -> None:
    rows = [((f"batch {i}",), (Entry(of(0.5)),)) for i in range(1, 21)]
    (axes,) = drawn(curve.over_rows, table(["Part"], {"average": "Avg."}, rows))
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_curve_when_two_arms_stand_at_one_place_then_there_are_two_lines() -> None:
    rows = [
        ((number, arm), (Entry(of(value)),))
        for number, arm, value in [
            ("1", "a", 0.1),
            ("1", "b", 0.9),
            ("2", "a", 0.2),
            ("2", "b", 0.8),
        ]
    ]
    (axes,) = drawn(curve.over_rows, table(["Layer", "ours"], {"average": "Avg."}, rows))
    lines = [line for line in axes.lines if line.get_marker() != "None"]
    assert [list(np.asarray(line.get_ydata())) for line in lines] == [[0.1, 0.2], [0.9, 0.8]]
    assert [list(np.asarray(line.get_xdata())) for line in lines] == [[1, 2], [1, 2]]


def test_curve_when_only_the_paper_has_a_series_then_the_legend_names_it() -> None:
    made = table(
        ["Layer"],
        {"average": "Avg.", "reliability": "Rel."},
        [(("1",), (Entry("not run", 0.5), Entry(of(0.4))))],
    )
    with styled():
        (legend,) = curve.over_rows(made).legends
    assert [text.get_text() for text in legend.get_texts()] == ["Avg.", "Rel."]


def test_curve_when_no_row_has_a_number_then_that_is_an_error() -> None:
    with pytest.raises(AnalysisError, match="no row has a number"):
        curve.over_rows(METHODS)


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("batch 10", ("batch", 10.0)),
        ("T=100", ("T", 100.0)),
        ("routing top_2", ("routing top", 2.0)),
        ("epsilon=1e-05", ("epsilon", 1e-5)),
        ("0.25", ("", 0.25)),
        ("memoe_v2", None),
        ("head", None),
    ],
)
def test_number_of_a_label(label: str, found: tuple[str, float] | None) -> None:
    assert number_of(label) == found


def test_curve_over_groups_then_the_groups_numbers_are_along_x() -> None:
    made = table(
        ["Method"],
        {"average_t100": "T=100 Avg.", "average_t20": "T=20 Avg."},
        [(("lemoe",), (Entry(of(0.8)), Entry(of(0.9))))],
        {"average_t100": "T=100", "average_t20": "T=20"},
    )
    (axes,) = drawn(curve.over_groups, made)
    (line,) = (line for line in axes.lines if line.get_marker() != "None")
    assert list(np.asarray(line.get_xdata())) == [20, 100]
    assert list(np.asarray(line.get_ydata())) == [0.9, 0.8]


GRID = table(
    ["Layer", "Experts", "Rank", "ours at"],
    {"reliability": "Rel.", "average": "Avg."},
    [
        (("18", "10", "2", "a"), (Entry(of(0.1)), Entry(of(0.3), 0.5))),
        (("20", "10", "2, 16", "b"), (Entry(of(0.1)), Entry(of(0.4), "not printed"))),
        (("18", "1", "2", "c"), (Entry(of(0.1)), Entry(of(0.6), 0.7))),
    ],
)


def test_heat_map_of_a_grid_then_each_cell_has_its_value_and_printed_ones_a_frame() -> None:
    axes = drawn(heat_map.of_grid, GRID)
    titles = [each.get_title() for each in axes[:4]]
    assert titles == [
        *("Experts 1\nours", "Experts 10\nours", "Experts 1\npaper", "Experts 10\npaper")
    ]
    shown = [np.ma.filled(each.images[0].get_array(), np.nan) for each in axes[:4]]
    nan = np.nan
    np.testing.assert_array_equal(shown[0], [[0.6, nan], [nan, nan]])
    np.testing.assert_array_equal(shown[1], [[0.3, nan], [0.4, 0.4]])
    np.testing.assert_array_equal(shown[3], [[0.5, nan], [nan, nan]])
    assert [len(each.patches) for each in axes[:4]] == [1, 1, 0, 0]
    assert axes[1].patches[0].get_xy() == (-0.5, -0.5)


def test_heat_map_when_several_arms_stand_at_a_point_then_dots_are_drawn_instead() -> None:
    rows = [((layer, "2", arm), (Entry(of(0.5)),)) for layer, arm in (("18", "a"), ("18", "b"))]
    made = table(["Layer", "Rank", "ours at"], {"average": "Avg."}, rows)
    with pytest.raises(AnalysisError, match="several arms stand at 18, 2"):
        heat_map.of_grid(made)
    (axes,) = drawn(drawing("an_ablation", "auto"), made)
    assert len(marks(axes, hollow=False)) == 2


def test_heat_map_when_an_arm_has_no_mean_or_no_point_then_the_figure_says_so() -> None:
    rows = [
        (("18", "2", "a"), (Entry(of(0.5)),)),
        (("20", "2", "b"), (Entry("failed 1/3"),)),
        (("-", "-", "c"), (Entry(of(0.1)),)),
    ]
    made = table(["Layer", "Rank", "ours at"], {"average": "Avg."}, rows)
    with styled():
        figure_ = heat_map.of_grid(made)
    (cross,) = figure_.axes[0].lines
    assert (float(cross.get_xdata()[0]), float(cross.get_ydata()[0])) == (0.0, 1.0)
    told = " ".join(text.get_text() for text in figure_.texts).replace("\n", " ")
    assert "cross: no mean" in told
    assert "left out: 1 rows that are no point of the grid" in told


def test_heat_map_of_shares_then_experts_stand_in_their_order() -> None:
    keys = {f"lifelong_{i}": f"stream: to expert {i}" for i in (1, 2, 10)}
    row = (("learned by expert 1",), tuple(Entry(of(0.3)) for _ in keys))
    made = table(["Inputs"], keys, [row], dict.fromkeys(keys, "stream:"))
    axes = drawn(heat_map.of_shares, made)[0]
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == ["to expert 1", "to expert 2", "to expert 10"]


def test_heat_map_when_the_score_is_not_there_then_the_error_names_those_that_are() -> None:
    with pytest.raises(AnalysisError, match=r"score=speed: .* known: reliability, average"):
        heat_map.of_grid(GRID, "speed")


def test_heat_map_of_no_grid_then_that_is_an_error() -> None:
    with pytest.raises(AnalysisError, match="grid of two swept numbers"):
        heat_map.of_grid(METHODS)


@pytest.mark.parametrize("draw", [dots.draw, curve.over_rows, curve.over_groups])
def test_figure_when_no_cell_holds_a_number_then_that_is_an_error(
    draw: Callable[[Table], Figure],
) -> None:
    empty = table(["Arm"], {"average": "Avg."}, [(("a",), (Entry("failed 1/3"),))])
    with pytest.raises(AnalysisError, match="no cell holds a number"):
        draw(empty)


def test_store_then_the_same_table_gives_the_same_svg_and_its_text_can_be_read(
    tmp_path: Path,
) -> None:
    texts = []
    for name in ("one.svg", "two.svg"):
        with styled():
            store(dots.draw(METHODS), tmp_path / name)
        texts.append((tmp_path / name).read_text("utf-8"))
    assert texts[0] == texts[1]
    assert "GRACE" in texts[0]
    assert "backbone: facts" in texts[0]
