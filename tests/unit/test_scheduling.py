from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.scheduling import METRIC, RUNGS, TIME_ATTR, make_scheduler


class Trial:
    """As much of a Tune trial as a scheduler reads."""

    def __init__(self, key: str) -> None:
        self.trial_id = key
        self.config = {"trial_key": key}
        self.status = "RUNNING"


def report(scheduler: Any, key: str, rung: int, value: float) -> str:
    row = {TIME_ATTR: rung, METRIC: value, "done": rung == len(RUNGS)}
    return scheduler.on_trial_result(None, Trial(key), row)


def started(name: str, keys: str, **options: Any) -> Any:
    scheduler, _ = make_scheduler(name, **options)
    for key in keys:
        scheduler.on_trial_add(None, Trial(key))
    return scheduler


def test_asha_stops_the_worse_half_of_a_rung_and_remembers_why() -> None:
    scheduler = started("asha", "abc")
    assert report(scheduler, "a", 1, 0.9) == TrialScheduler.CONTINUE
    assert report(scheduler, "b", 1, 0.1) == TrialScheduler.STOP
    assert report(scheduler, "c", 1, 0.95) == TrialScheduler.CONTINUE
    assert scheduler.stopped == {"b": "asha"}


@pytest.mark.parametrize("factor", [2, 2.5, 4, 10])
def test_asha_decides_at_every_rung_before_the_end(factor: float) -> None:
    keys = "abcdefghijklmnopqrst"
    scheduler = started("asha", keys, reduction_factor=factor)
    for key in keys:
        assert report(scheduler, key, 1, 0.5) == TrialScheduler.CONTINUE  # nobody is worse
    for number, key in enumerate(keys):
        report(scheduler, key, 2, 1.0 - number / 20)  # each is worse than all before
    assert 20 * (1 - 1 / factor) <= len(scheduler.stopped) < 20
    report(scheduler, keys[0], 3, 0.0)
    assert keys[0] not in scheduler.stopped  # it came to its end


def test_asha_when_a_trial_is_protected_then_never_stops_it() -> None:
    scheduler = started("asha", "ab", protected=["b"])
    report(scheduler, "a", 1, 0.9)
    assert report(scheduler, "b", 1, 0.1) == TrialScheduler.CONTINUE
    assert scheduler.stopped == {}


def test_asha_when_a_trial_reached_the_end_then_it_was_not_stopped() -> None:
    scheduler = started("asha", "a")
    report(scheduler, "a", 3, 0.5)
    assert scheduler.stopped == {}


def test_asha_when_resumed_then_compares_with_rungs_of_the_driver_before() -> None:
    past = [{"trial_key": "old", TIME_ATTR: 1, METRIC: 0.8}]
    resumed = started("asha", "n", past=past)
    assert report(resumed, "n", 1, 0.2) == TrialScheduler.STOP
    fresh = started("asha", "n")
    assert report(fresh, "n", 1, 0.2) == TrialScheduler.CONTINUE


def test_asha_when_grace_is_half_then_the_first_quarter_stops_nobody() -> None:
    scheduler = started("asha", "ab", grace=0.5)
    report(scheduler, "a", 1, 0.9)
    assert report(scheduler, "b", 1, 0.1) == TrialScheduler.CONTINUE
    report(scheduler, "a", 2, 0.9)
    assert report(scheduler, "b", 2, 0.1) == TrialScheduler.STOP


def test_fifo_reports_once_at_the_end() -> None:
    assert make_scheduler("fifo")[1] == (1.0,)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_without_a_result_does_not_disturb_the_others(name: str) -> None:
    scheduler = started(name, "ab")
    failed = {"status": "failed", "done": True}
    scheduler.on_trial_result(None, Trial("a"), failed)
    assert scheduler.stopped == {}
