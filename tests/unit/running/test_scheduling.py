from collections.abc import Mapping
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrator.planning.cell import Remembered
from orchestrator.planning.distributions import Distribution
from orchestrator.running.scheduling import METRIC, TIME_ATTR, PlannedSearch, make_scheduler


class Trial:
    """As much of a Tune trial as a scheduler reads."""

    def __init__(self, key: str) -> None:
        self.trial_id = key
        self.config = {"trial_key": key}
        self.status = "RUNNING"


def never(key: str) -> bool:
    return False


def report(scheduler: Any, key: str, rung: int, value: float, num_rungs: int = 3) -> str:
    row = {TIME_ATTR: rung, METRIC: value, "done": rung == num_rungs}
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


@pytest.mark.parametrize(
    ("grace", "factor", "expected"),
    [
        (0.2, 5, (0.2, 1.0)),
        (0.25, 2, (0.25, 0.5, 1.0)),
        (0.1, 3, (0.1, 0.3, 0.9, 1.0)),
        (1.0, 2, (1.0,)),
    ],
)
def test_asha_decides_at_every_rung_before_the_end(
    grace: float, factor: int, expected: tuple[float, ...]
) -> None:
    scheduler, rungs = make_scheduler("asha", grace=grace, reduction_factor=factor)
    assert rungs == pytest.approx(expected)
    keys = "abcdefghijklmnopqrst"
    for key in keys:
        scheduler.on_trial_add(None, Trial(key))
    for decides_at in range(1, len(rungs)):
        scheduler.stopped.clear()
        for number, key in enumerate(keys):  # each is worse than all before
            report(scheduler, key, decides_at, 1.0 - number / 20, len(rungs))
        assert 20 * (1 - 1 / factor) <= len(scheduler.stopped) < 20
    scheduler.stopped.clear()
    report(scheduler, "t", len(rungs), 0.0, len(rungs))
    assert scheduler.stopped == {}  # it came to its end


def test_asha_when_scores_are_equal_then_no_more_than_its_share_goes_on() -> None:
    keys = [f"trial-{number}" for number in range(400)]
    decisions = []
    for order in (keys, keys[::-1]):
        scheduler, rungs = make_scheduler("asha", grace=0.2, reduction_factor=5)
        for key in order:
            scheduler.on_trial_add(None, Trial(key))
        for key in order:
            report(scheduler, key, 1, 0.4375, len(rungs))
        decisions.append(scheduler.stopped)
    going_on = [set(keys) - set(stopped) for stopped in decisions]
    # A fifth, and some at the start, where each is compared with few: 80 and less than 25 more.
    assert all(80 <= len(each) < 105 for each in going_on)
    # Which they are follows from their keys, not from their places.
    assert len(going_on[0] & going_on[1]) >= 75


def test_asha_when_scores_are_equal_then_a_driver_that_goes_on_draws_as_the_one_before() -> None:
    keys = [f"trial-{number}" for number in range(40)]
    whole = started("asha", "")
    for key in keys:
        whole.on_trial_add(None, Trial(key))
        report(whole, key, 1, 0.5)
    past = [{"trial_key": key, "progress": 0.25, METRIC: 0.5} for key in keys[:20]]
    second = started("asha", "", past=past)
    for key in keys[20:]:
        second.on_trial_add(None, Trial(key))
        report(second, key, 1, 0.5)
    assert set(second.stopped) == set(whole.stopped) & set(keys[20:])


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
    past = [{"trial_key": "old", "progress": 0.3, METRIC: 0.8}]
    resumed = started("asha", "n", past=past)
    assert report(resumed, "n", 1, 0.2) == TrialScheduler.STOP
    fresh = started("asha", "n")
    assert report(fresh, "n", 1, 0.2) == TrialScheduler.CONTINUE


def test_asha_when_it_is_told_of_a_trial_later_then_only_those_behind_it_are_compared() -> None:
    resumed = started("asha", "ab")
    assert report(resumed, "a", 1, 0.2) == TrialScheduler.CONTINUE  # nothing to compare with yet
    resumed.recall([{"trial_key": "old", "progress": 0.3, METRIC: 0.8}])
    assert report(resumed, "b", 1, 0.2) == TrialScheduler.STOP


def test_asha_when_the_smallest_is_best_then_the_larger_half_stops_earlier_drivers_counted() -> (
    None
):
    scheduler = started("asha", "ab", mode="min")
    assert report(scheduler, "a", 1, 20.0) == TrialScheduler.CONTINUE
    assert report(scheduler, "b", 1, 90.0) == TrialScheduler.STOP
    past = [{"trial_key": "old", "progress": 0.3, METRIC: 20.0}]
    resumed = started("asha", "nm", mode="min", past=past)
    assert report(resumed, "n", 1, 90.0) == TrialScheduler.STOP
    assert report(resumed, "m", 1, 7.5) == TrialScheduler.CONTINUE


def test_search_when_the_smallest_is_best_then_optuna_is_told_so() -> None:
    def to_config(values: Mapping[str, Any]) -> dict[str, Any] | Remembered:
        return Remembered(values["x"])

    space = {"x": Distribution("uniform", 0.0, 1.0)}
    search = PlannedSearch(space, 0, 8, to_config, lambda past: None, never, "min")
    assert search.suggest("t1") == Searcher.FINISHED
    assert search.study.best_value == min(trial.value for trial in search.study.trials)


def test_search_when_trials_are_settled_then_their_rungs_are_told_in_the_samplers_order() -> None:
    told: list[Any] = []
    asked: list[float] = []

    def to_config(values: Mapping[str, Any]) -> dict[str, Any] | Remembered:
        asked.append(values["x"])
        if len(asked) in (1, 3):
            return Remembered(0.5, [{"trial_key": f"old-{len(asked)}"}])
        return {"trial_key": f"new-{len(asked)}"}

    search = PlannedSearch(
        {"x": Distribution("uniform", 0.0, 1.0)}, 0, 4, to_config, told.extend, never
    )
    assert search.suggest("t1") == {"trial_key": "new-2"}
    assert [row["trial_key"] for row in told] == ["old-1"]
    assert search.suggest("t2") == {"trial_key": "new-4"}
    assert [row["trial_key"] for row in told] == ["old-1", "old-3"]
    assert search.suggest("t3") == Searcher.FINISHED
    assert len(set(asked)) == 4


def test_search_when_it_has_a_start_then_its_first_trial_has_that_and_the_rest_drawn() -> None:
    space = {
        "x": Distribution("loguniform", 1e-4, 1.0),
        "layers": Distribution("categorical", choices=([0, 1], [2, 3])),
        "y": Distribution("uniform", 0.0, 1.0),
    }
    asked: list[Mapping[str, Any]] = []

    def to_config(values: Mapping[str, Any]) -> dict[str, Any] | Remembered:
        asked.append(values)
        return Remembered(values["y"])

    start = {"x": 0.03, "layers": [2, 3]}
    for _ in range(2):  # a resumed search asks for the same trials again
        search = PlannedSearch(space, 0, 3, to_config, lambda past: None, never, start=start)
        assert search.suggest("t") == Searcher.FINISHED
    assert (asked[0]["x"], asked[0]["layers"]) == (0.03, [2, 3])
    assert 0 <= asked[0]["y"] <= 1
    assert 0.03 not in {values["x"] for values in asked[1:3]}
    assert asked[:3] == asked[3:]


def test_asha_when_a_rung_was_missed_by_rounding_then_it_counts_as_reached() -> None:
    reached = 0.1 + 0.7  # 0.7999999999999999
    past = [{"trial_key": "old", "progress": reached, METRIC: 0.8}]
    resumed = started("asha", "n", grace=0.8, past=past)
    assert report(resumed, "n", 1, 0.2, num_rungs=2) == TrialScheduler.STOP


def test_asha_when_grace_is_half_then_what_stood_at_a_quarter_is_not_compared() -> None:
    past = [{"trial_key": "old", "progress": 0.25, METRIC: 0.8}]
    resumed = started("asha", "n", grace=0.5, past=past)
    assert report(resumed, "n", 1, 0.2) == TrialScheduler.CONTINUE


def test_fifo_reports_once_at_the_end() -> None:
    assert make_scheduler("fifo")[1] == (1.0,)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_without_a_result_does_not_disturb_the_others(name: str) -> None:
    scheduler = started(name, "ab")
    failed = {"status": "failed", "done": True}
    scheduler.on_trial_result(None, Trial("a"), failed)
    assert scheduler.stopped == {}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("is_of_an_earlier_driver", [False, True])
def test_asha_when_a_rung_holds_a_score_that_is_not_finite_then_the_others_are_still_stopped(
    value: float, is_of_an_earlier_driver: bool
) -> None:
    keys = [f"trial-{number}" for number in range(20)]
    broken = {"trial_key": "broken", "progress": 0.25, METRIC: value}
    scheduler = started("asha", "", past=[broken] if is_of_an_earlier_driver else [])
    if not is_of_an_earlier_driver:
        scheduler.on_trial_add(None, Trial("broken"))
        assert report(scheduler, "broken", 1, value) == TrialScheduler.CONTINUE
    for number, key in enumerate(keys):  # each is worse than all before
        scheduler.on_trial_add(None, Trial(key))
        report(scheduler, key, 1, 1 - number / 20)
    assert scheduler.stopped.keys() == set(keys[1:])


def result(value: float | None, rung: int = 3, done: bool = True) -> dict[str, Any]:
    """What Tune hands to its searcher; a trial that failed has no score."""
    row = {"done": done, "training_iteration": rung}
    return row if value is None else {**row, METRIC: value, TIME_ATTR: rung}


def test_search_when_it_is_over_then_optuna_believes_of_no_trial_that_it_runs() -> None:
    settled = [Remembered(None), Remembered(0.5), Remembered(0.25, stopped_at=1)]
    settled += [Remembered(float("nan"))]
    outcomes = iter([*settled, *(f"trial-{number}" for number in range(7))])

    def to_config(values: Mapping[str, Any]) -> dict[str, Any] | Remembered:
        outcome = next(outcomes)
        return outcome if isinstance(outcome, Remembered) else {"trial_key": outcome}

    stopped = {"trial-4"}
    space = {"x": Distribution("uniform", 0.0, 1.0)}
    search = PlannedSearch(space, 0, 11, to_config, lambda past: None, stopped.__contains__)
    for number in range(7):
        assert search.suggest(str(number)) == {"trial_key": f"trial-{number}"}
    search.on_trial_complete("0", result(0.75))
    search.on_trial_complete("1", result(float("nan")))
    search.on_trial_complete("2", result(float("inf")))
    search.on_trial_complete("3", result(None))  # failed, diverged or given to an unfit node
    search.on_trial_result("4", result(0.1, rung=1, done=False))
    search.on_trial_complete("4", result(0.3, rung=2))
    search.on_trial_result("5", result(float("nan"), rung=1, done=False))
    search.on_trial_complete("5", error=True)
    search.tell_lost()  # of trial-6 nothing was heard

    assert search.keys == [f"trial-{number}" for number in range(7)]
    told = search.study.trials
    assert [trial.state.name for trial in told[:4]] == ["FAIL", "COMPLETE", "PRUNED", "FAIL"]
    assert [trial.state.name for trial in told[4:]] == [
        *("COMPLETE", "FAIL", "FAIL", "FAIL", "PRUNED", "FAIL", "FAIL"),
    ]
    assert [trial.value for trial in told if trial.state.name == "COMPLETE"] == [0.5, 0.75]
    rungs = [trial.intermediate_values for trial in told if trial.state.name == "PRUNED"]
    assert rungs == [{1: 0.25}, {1: 0.1, 2: 0.3}]


def test_search_when_trials_were_stopped_then_a_driver_that_goes_on_asks_the_same() -> None:
    """Optuna draws by what it knows from its tenth trial on."""

    def score(values: Mapping[str, Any]) -> float:
        return 1 - abs(values["x"] - 0.3)

    asked: dict[bool, list[float]] = {False: [], True: []}
    for is_resumed in (False, True):
        stopped: set[str] = set()

        def to_config(
            values: Mapping[str, Any], is_resumed: bool = is_resumed
        ) -> dict[str, Any] | Remembered:
            number, value = len(asked[is_resumed]), score(values)
            asked[is_resumed].append(values["x"])
            if is_resumed:
                return Remembered(value, stopped_at=1 if number % 3 == 0 else None)
            return {"trial_key": str(number), "value": value}

        space = {"x": Distribution("uniform", 0.0, 1.0)}
        search = PlannedSearch(space, 0, 30, to_config, lambda past: None, stopped.__contains__)
        while (config := search.suggest(f"trial-{len(asked[is_resumed])}")) != Searcher.FINISHED:
            is_stopped = int(config["trial_key"]) % 3 == 0
            if is_stopped:
                stopped.add(config["trial_key"])
            rung = 1 if is_stopped else 3
            trial_id = f"trial-{config['trial_key']}"
            search.on_trial_complete(trial_id, result(config["value"], rung))
    assert asked[True] == asked[False]
