"""What batches report, and what survives the way through JSON."""

from __future__ import annotations

import json

import pytest
import torch

from trainables.edits.stream import EditStream
from trainables.interfaces import EditReport, State
from trainables.metrics.evaluator import ProbeScore
from trainables.metrics.prompt_routes import RouteRow
from trainables.trials.measurements import CurvePoint, Measurements, edit_state_bytes


def test_counts_of_reports_are_added_and_numbers_averaged() -> None:
    measured = Measurements(
        reports=[
            EditReport(2, 5, counts={"rejected": 1}, numbers={"gece": 0.25, "width": 3.0}),
            EditReport(1, 4, counts={"rejected": 2, "kept": 1}, numbers={"gece": 0.75}),
        ]
    )
    row = measured.row(EditStream([[0, 1], [2]]), (), is_rolled_back=True)
    assert row["num_steps"] == 9
    assert (row["count.rejected"], row["count.kept"]) == (3, 1)
    assert row["number.gece"] == 0.5  # (.25 + .75) / 2 batches
    assert row["number.width"] == 3.0  # of the one batch that told it


def test_measurements_come_back_from_json_as_they_were() -> None:
    score = ProbeScore(1, "reliability", "p", 0.5, 0.0, perplexity=3.0)
    measured = Measurements(
        immediate=[score],
        final=[score],
        outdated=[ProbeScore(0, "reliability", "p", 1.0, 1.0)],
        curve=[CurvePoint(3, 0, 2, 0.5, 0.25)],
        reports=[EditReport(1, 2, 0.1, {"a": 1}, {"b": 0.5})],
        routes=[
            RouteRow(1, "reliability", "p", (0, 1), (0, 0), 1),
            RouteRow(1, "generality", "q", (0,)),
        ],
        trained={1: (0, 1)},
        state_bytes=[8],
        seconds={"edit": 1.5, "evaluation": 0.5},
    )
    assert Measurements.from_values(json.loads(json.dumps(measured.values()))) == measured


def test_curve_rows_weigh_batches_by_their_records() -> None:
    points = [CurvePoint(2, 0, 2, 0.5, 0.0), CurvePoint(3, 0, 2, 0.25, 0.0)]
    measured = Measurements(curve=[*points, CurvePoint(3, 1, 1, 1.0, 1.0)])
    # after three edits: (2 * .25 + 1 * 1) / 3 = .5, exact (0 + 1) / 3
    assert measured.curve_rows() == [
        {"edits_seen": 2.0, "reliability.token.curve": 0.5, "reliability.exact.curve": 0.0},
        {
            "edits_seen": 3.0,
            "reliability.token.curve": pytest.approx(0.5),
            "reliability.exact.curve": pytest.approx(1 / 3),
        },
    ]


def test_edit_state_bytes_leave_random_generators_out() -> None:
    state = State(
        tensors={
            "experts/weight": torch.zeros(3, 2),  # 6 float32: 24 bytes
            "mask": torch.zeros(5, dtype=torch.bool),  # 5 bytes
            "generator": torch.get_rng_state(),
            "inner/generator_noise": torch.get_rng_state(),
        }
    )
    assert edit_state_bytes(state) == 29
