"""The layout of an ablation without a published table."""

from __future__ import annotations

from analysis.aggregate import Arm, Estimate, Section
from analysis.layouts.generic import arrange


def arm(name: str) -> Arm:
    return Arm(
        *(name, "lemoe", "mine", {}, {}, {}, (0,), 16, 128, ""),
        *({"reliability": Estimate(0.5, 1)}, {}, ()),
    )


def test_rows_then_numbers_in_names_stand_by_size() -> None:
    names = ["top_2 edit_layer=10", "top_2 edit_layer=4", "soft", "top_2 edit_layer=4 lr=0.02"]
    names += ["lr=1e+30", "lr=0.5", "lr=1e-05"]
    body = arrange(Section({}, {}, tuple(map(arm, names)), {}, 0), (), False)
    assert [row.labels for row in body.rows] == [
        *(("lr=1e-05",), ("lr=0.5",), ("lr=1e+30",), ("soft",)),
        *(("top_2 edit_layer=4",), ("top_2 edit_layer=4 lr=0.02",)),
        ("top_2 edit_layer=10",),
    ]
