"""What has become of a sweep's trials: counts, arms with intervals, failures, time left."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings.metrics import compared
from orchestrator.terminal.tally import ArmScore, Tally, ranked
from tests.unit.terminal.test_board import ended
from tests.unit.terminal.test_running_trials import write


def tally(total: int = 8, pulses: Path | None = None) -> Tally:
    return Tally(total, compared("average.token"), pulses)


def test_arms_of_three_seeds_have_students_interval_and_others_none() -> None:
    # mean .9, s = .1, t(.975, 2) = 4.3027: half = 4.3027 * .1 / sqrt(3) = .24841
    three, two = ranked({"two": [0.5, 0.75], "three": [0.8, 0.9, 1.0]}, 1)
    assert (three.name, three.mean, three.seeds) == ("three", pytest.approx(0.9), 3)
    assert three.half == pytest.approx(0.248414, abs=1e-6)
    assert three.text == "0.90 ± 0.25"
    assert two == ArmScore("two", 0.625, None, 2)
    assert two.text == "0.62"


def test_arms_stand_the_best_first_whether_large_or_small_is_good() -> None:
    arms = {"a": [1.0], "b": [3.0], "c": [2.0]}
    assert [arm.name for arm in ranked(arms, 1)] == ["b", "c", "a"]
    assert [arm.name for arm in ranked(arms, -1)] == ["a", "c", "b"]


def test_standing_counts_what_ended_and_groups_failures_by_reason(tmp_path: Path) -> None:
    write(tmp_path, "f1")
    made = tally(pulses=tmp_path)
    made.stage("starting Ray")
    assert made.standing().doing == "starting Ray, 0:00"
    assert made.standing().left_seconds is None  # nobody knows yet
    for row in (ended("good", 0.9), *[ended("bad", 0.0, "diverged")] * 2):
        made.ended(row)
    made.look()
    now = made.standing()
    assert (now.done, now.counts) == (3, {"finished": 1, "diverged": 2})
    assert now.failures == [("loss is nan", 2)]
    assert [(arm.name, arm.mean) for arm in now.arms] == [("good", pytest.approx(0.9))]
    assert [trial.name for trial in now.running] == ["arm of f1"]
    assert now.doing == ""
    assert now.left_seconds == pytest.approx(now.seconds / 3 * 5)  # five of eight are left
    assert now.head.startswith("3/8 trials (2 diverged, 1 finished), 0:0")
