"""Pairing with the paper's rows, and agreement, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from analysis.aggregate import Arm, Estimate, Section
from analysis.errors import ProtocolMismatchError
from analysis.layouts.special import lemoe_table9
from analysis.published import compare
from analysis.published.compare import Agreement, Correlation
from analysis.published.paper_numbers import load

AXES = ("method.edit_layer", "method.num_experts", "method.top_k", "method.lora_rank")


def arm(
    scores: tuple[float, float, float] | None = (0.5, 0.5, 0.9),
    swept: dict[str, Any] | None = None,
    published: dict[str, list[Any]] | None = None,
    num_layers: int = 16,
) -> Arm:
    names = ("reliability", "generality", "locality")
    found = zip(names, scores or (), strict=False)
    return Arm(
        name="a",
        method="lemoe_lora",
        ablation="lemoe_lora",
        swept=swept or {},
        published=published or {},
        protocol={"kind": "batch", "num_edits": 20, "edit_batch_size": 20},
        seeds=(0,),
        num_layers=num_layers,
        hidden_size=128,
        state="" if scores else "failed 1/1",
        scores={name: Estimate(value, 1) for name, value in found},
        before={},
        errors=(),
    )


def section(*arms: Arm, kind: str = "batch", backbone: str = "facts") -> Section:
    context = {"backbone": backbone, "dataset": "zsre"}
    return Section(context, {"kind": kind}, arms or (arm(),), {}, 0)


def test_published_points_when_ranks_fell_together_then_one_cell_each() -> None:
    swept = dict(zip(AXES, (9, 10, 5, 1), strict=True))
    published = {"method.edit_layer": [18], "method.lora_rank": [2, 4, 8]}
    found = compare.published_points(arm(swept=swept, published=published), AXES)
    assert found == ((18, 10, 5, 2), (18, 10, 5, 4), (18, 10, 5, 8))


def test_published_points_when_an_axis_has_no_value_then_no_cell() -> None:
    assert compare.published_points(arm(swept={"method.top_k": 5}), AXES) == ()


def test_published_points_when_a_layer_is_in_our_own_units_then_only_on_the_papers_depth() -> None:
    axes = ("method.edit_layer",)
    swept = {"method.edit_layer": 8}
    assert compare.published_points(arm(swept=swept), axes) == ()
    assert compare.published_points(arm(swept=swept, num_layers=32), axes) == ((8,),)


def test_ours_at_when_layer_and_rank_were_scaled_then_over_depth_and_width() -> None:
    swept = dict(zip(AXES, (9, 10, 5, 8), strict=True)) | {"method.edit_lr": 0.01}
    published = {"method.edit_layer": [18], "method.lora_rank": [256], "method.top_k": [5]}
    found = compare.ours_at(arm(swept=swept, published=published), AXES)
    assert found == "layer 9/16, rank 8/128, edit_lr=0.01"


def test_ours_at_when_nothing_was_scaled_then_the_same() -> None:
    swept = {"method.top_k": 5}
    assert compare.ours_at(arm(swept=swept), ("method.top_k",)) == "the same"


def test_comparable_when_kinds_differ_then_refuses() -> None:
    with pytest.raises(
        ProtocolMismatchError, match=r"kind=batch, the runs have protocol.kind=life"
    ):
        compare.comparable([section(kind="lifelong")], load("lemoe_table9"), "lemoe_table9")


def test_comparable_when_some_fit_then_the_others_are_named() -> None:
    both = [section(), section(kind="single")]
    fitting, notes = compare.comparable(both, load("lemoe_table9"), "lemoe_table9")
    assert fitting == (both[0],)
    assert notes == ("left out: 1 arms with protocol.kind=single; the paper's is batch",)


def test_comparable_when_the_paper_says_sequential_batch_then_lifelong_fits() -> None:
    fitting, _ = compare.comparable([section(kind="lifelong")], load("memoe_v1_table2"), "t")
    assert len(fitting) == 1


def test_differences_when_backbone_and_size_differ_then_both_are_named() -> None:
    assert compare.differences(section(), load("lemoe_table9")) == (
        "backbone: ours facts, paper LLaMA2-7B",
        "protocol.num_edits: ours 20, paper 30",
        "protocol.edit_batch_size: ours 20, paper 30",
    )


def test_differences_when_only_the_spelling_differs_then_the_same_backbone() -> None:
    found = compare.differences(section(backbone="llama2_7b"), load("lemoe_table9"))
    assert not any(text.startswith("backbone") for text in found)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({}, []),
        ({"update_order": "rounds"}, []),
        ({"update_order": "bursts"}, ["ours bursts, paper rounds as read out of its Section 4.2"]),
        ({"update_order": "random"}, ["ours random, paper rounds as read out of its Section 4.2"]),
    ],
)
def test_differences_when_updates_come_in_another_order_then_it_is_named(
    order: dict[str, str], said: list[str]
) -> None:
    serial = replace(arm(), protocol={"kind": "serial", "num_edits": 1000, **order})
    found = compare.differences(section(serial, kind="serial"), load("arm_table1"))
    named = [text for text in found if text.startswith("protocol.update_order: ")]
    assert [text.removeprefix("protocol.update_order: ") for text in named] == said


def test_spearman_when_one_pair_is_swapped_then_by_the_formula() -> None:
    # ranks 1 2 3 4 against 1 3 2 4: rho = 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = .8
    pairs = [(0.1, 0.2), (0.2, 0.5), (0.3, 0.4), (0.4, 0.9)]
    found = compare.spearman(pairs)
    assert found.num_pairs == 4
    assert found.value == pytest.approx(0.8)


@pytest.mark.parametrize("pairs", [[(0.1, 0.2), (0.2, 0.1)], [(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)]])
def test_spearman_when_too_few_or_constant_then_undefined(pairs: list[tuple[float, float]]) -> None:
    assert compare.spearman(pairs) == Correlation(None, len(pairs))


def test_passes_filter_when_exactly_on_the_threshold_then_it_passes() -> None:
    assert compare.passes_filter(arm((3 / 30, 0.1, 0.5))) is True
    assert compare.passes_filter(arm((0.09, 0.9, 0.9))) is False
    assert compare.passes_filter(arm(None)) is None


def test_agreement_when_four_kinds_then_counted_each() -> None:
    good, bad = arm(), arm((0.0, 0.0, 1.0))
    cells = {(1,): good, (2,): good, (3,): bad, (4,): bad, (5,): bad}
    found = compare.agreement(cells.items(), [(1,), (3,), (9,)])
    assert found == Agreement(both=1, ours_only=1, paper_only=1, neither=2)
    assert found.rate == pytest.approx(3 / 5)


def test_is_published_when_the_cell_is_outside_the_stated_grid_then_false() -> None:
    assert lemoe_table9.is_published((18, 10, 5, 4))
    assert not lemoe_table9.is_published((17, 10, 5, 4))
    assert not lemoe_table9.is_published((18, 1, 5, 4))  # more than there are experts
    assert all(
        lemoe_table9.is_published((row.layer, row.num_experts, row.top_k, row.lora_rank))
        for row in load("lemoe_table9")
    )
