"""The driver's promises, whatever becomes of its trials: each ends once, and nothing is lost."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import LedgerError, UsageError
from orchestrator.planning.cell import Cell
from orchestrator.store.ledger import Ledger
from orchestrator.store.rows import MAX_RETRIES
from orchestrator.store.settled import Options
from tests.unit.fake_sweep import (
    AFTERWARDS,
    ENDS,
    MOST_TRIALS,
    SETBACKS,
    Driver,
    Fate,
    Killed,
    Turns,
    cells,
    end_rows,
)

STATUS = {"error": "failed"}  # of the ends that have another name
NUM_TRIALS = st.integers(1, MOST_TRIALS)
TURNS = st.lists(st.integers(0, 2), max_size=60)  # which of the drivers goes on
FEW = settings(max_examples=40, deadline=None)  # each writes a store


def fates(setbacks: Sequence[str] = SETBACKS) -> st.SearchStrategy[list[Fate]]:
    """One for each trial of a grid."""
    one = st.builds(
        Fate,
        end=st.sampled_from(ENDS),
        setbacks=st.lists(st.sampled_from(setbacks), max_size=4).map(tuple)
        if setbacks
        else st.just(()),
        num_rungs=st.integers(1, 2),
        afterwards=st.sampled_from(["", *AFTERWARDS]),
    )
    return st.lists(one, min_size=1, max_size=MOST_TRIALS)


@contextmanager
def new_store() -> Iterator[Path]:
    """One for each example."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def asked(drawn: Sequence[Fate]) -> tuple[Sequence[Cell], Mapping[str, Fate]]:
    """So many cells of the grid, and what becomes of each."""
    chosen = cells()[: len(drawn)]
    return chosen, {each.key: fate for each, fate in zip(chosen, drawn, strict=True)}


def expected(fate: Fate) -> tuple[str, int]:
    """Status of the end, and how often the trial is started until then."""
    num_lost = 0
    for number, setback in enumerate(fate.setbacks, 1):
        num_lost += setback != "misplaced"
        if num_lost > MAX_RETRIES:
            return "failed", number
    return STATUS.get(fate.end, fate.end), len(fate.setbacks) + 1


@FEW
@given(fates(), NUM_TRIALS)
def test_every_trial_ends_once_after_as_many_tries_as_it_has(
    drawn: list[Fate], at_a_time: int
) -> None:
    chosen, by_key = asked(drawn)
    with new_store() as store:
        driver = Driver(store, by_key, at_a_time=at_a_time)
        driver.settle(chosen)
        ends = end_rows(store)

        assert {end["fingerprint"]: end["status"] for end in ends} == {
            key: expected(fate)[0] for key, fate in by_key.items()
        }
        assert len(ends) == len(chosen)
        assert driver.witness.logged == driver.witness.shown == [end["row_id"] for end in ends]
        assert driver.results.outcome.counts == Counter(end["status"] for end in ends)
        assert driver.witness.totals == [len(chosen)]
        failed = {end["row_id"] for end in ends if end["status"] in ("failed", "diverged")}
        assert {end.row_id for end in driver.results.outcome.failures} == failed
        num_started = {key: expected(fate)[1] for key, fate in by_key.items()}
        assert Counter(driver.tuning.started) == num_started
        assert len([line for line in driver.said if "too old" in line]) <= 1  # one node, one line
        assert driver.num_starts == 1
        assert driver.tuning.is_closed


@FEW
@given(
    fates(("misplaced",)),
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([Killed, KeyboardInterrupt])), max_size=4
    ),
    NUM_TRIALS,
)
def test_driver_cut_off_anywhere_then_the_next_runs_the_rest_and_nothing_twice(
    drawn: list[Fate], cuts: list[tuple[int, type[BaseException]]], at_a_time: int
) -> None:
    chosen, by_key = asked(drawn)
    with new_store() as store:
        for num_events, how in [*cuts, (10**6, Killed)]:
            before = Ledger.read(store)
            driver = Driver(store, by_key, between=after(num_events, how), at_a_time=at_a_time)
            with suppress(how):
                driver.sweep.settle(chosen)
            driver.die() if how is Killed else driver.close()
            assert not before.ends.keys() & set(driver.tuning.started)
            assert len(driver.witness.logged) == len(set(driver.witness.logged))
            for past in driver.tuning.past:
                reached = {each["trial_key"] for each in past}
                assert before.checkpoints.keys() <= reached  # whom a scheduler compares with

        ends = end_rows(store)
        assert Counter(end["fingerprint"] for end in ends) == dict.fromkeys(by_key, 1)
        assert {end["fingerprint"]: end["status"] for end in ends} == {
            key: STATUS.get(fate.end, fate.end) for key, fate in by_key.items()
        }


def after(num_events: int, error: type[BaseException]) -> Callable[[], None]:
    """Raises `error` when it is called the next time after so many."""
    left = iter(range(num_events))

    def count() -> None:
        if next(left, None) is None:
            raise error

    return count


@FEW
@given(fates(), TURNS, st.integers(2, 3), NUM_TRIALS)
def test_drivers_at_the_same_time_share_the_trials_and_each_knows_all_of_them(
    drawn: list[Fate], draws: list[int], num_drivers: int, at_a_time: int
) -> None:
    chosen, by_key = asked(drawn)
    turns = Turns(draws)
    with new_store() as store:
        drivers = [
            Driver(store, by_key, between=turn, wait=turn, at_a_time=at_a_time)
            for turn in (partial(turns.pass_on, number) for number in range(num_drivers))
        ]
        turns.run([lambda driver=driver: driver.settle(chosen) for driver in drivers])
        ends = end_rows(store)

    assert Counter(end["fingerprint"] for end in ends) == dict.fromkeys(by_key, 1)
    if not any(fate.setbacks for fate in drawn):
        assert sum(len(driver.tuning.started) for driver in drivers) == len(chosen)
    for driver in drivers:
        outcome = driver.results.outcome
        assert sum(outcome.counts.values()) + outcome.num_settled_before == len(chosen)
        assert set(driver.witness.logged) == {end["row_id"] for end in ends}
        assert len(driver.witness.logged) == len(ends)


@FEW
@given(fates(), st.integers(1, 12), TURNS, NUM_TRIALS)
def test_driver_killed_beside_another_then_that_one_runs_the_rest(
    drawn: list[Fate], num_events: int, draws: list[int], at_a_time: int
) -> None:
    chosen, by_key = asked(drawn)
    turns = Turns(draws)
    with new_store() as store:
        first_turn, second_turn = (partial(turns.pass_on, number) for number in range(2))
        count = after(num_events, Killed)

        def turn_and_count() -> None:
            first_turn()
            count()

        first = Driver(store, by_key, between=turn_and_count, wait=first_turn, at_a_time=at_a_time)
        second = Driver(store, by_key, between=second_turn, wait=second_turn, at_a_time=at_a_time)

        def until_killed() -> None:
            with suppress(Killed):
                first.sweep.settle(chosen)
            first.die()

        turns.run([until_killed, lambda: second.settle(chosen)])
        ends = end_rows(store)

    assert Counter(end["fingerprint"] for end in ends) == dict.fromkeys(by_key, 1)


@FEW
@given(fates(()), st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["source", "other"]))
def test_settled_trial_runs_again_only_where_an_option_opens_it(
    drawn: list[Fate], retry_failed: bool, complete_stopped: bool, fresh: bool, source: str
) -> None:
    chosen, by_key = asked(drawn)
    opened = {"failed"} if retry_failed else set[str]()
    opened |= {"stopped"} if complete_stopped else set()
    with new_store() as store:
        Driver(store, by_key).settle(chosen)
        before = {end["fingerprint"]: end["status"] for end in end_rows(store)}
        options = Options(retry_failed, complete_stopped, fresh)
        second = Driver(store, {}, options, source_hash=source)
        second.settle(chosen)
        after = Ledger.read(store).ends

    again = {key for key, status in before.items() if fresh or status in opened}
    outcome = second.results.outcome
    assert Counter(second.tuning.started) == dict.fromkeys(again, 1)
    assert {after[key].status for key in again} <= {"finished"}
    assert outcome.num_settled_before == len(chosen) - len(again)
    assert outcome.num_other_source == (outcome.num_settled_before if source == "other" else 0)
    assert second.num_starts == (1 if again else 0)  # Ray takes seconds
    assert len(second.witness.logged) == len(chosen)
    left = Counter(status for key, status in before.items() if key not in again)
    assert len(outcome.failures) == left["failed"] + left["diverged"]


def test_trial_that_never_runs_is_tried_again_as_often_as_tune_does_and_no_more(
    tmp_path: Path,
) -> None:
    (only,) = cells()[:1]
    driver = Driver(tmp_path, {only.key: Fate(setbacks=("silent",) * 9)})
    driver.settle([only])
    assert len(driver.tuning.started) == MAX_RETRIES + 1
    assert [end["error"] for end in end_rows(tmp_path)] == ["Ray lost it without a word"]


def test_first_end_of_a_trial_stands_whatever_ray_says_afterwards(tmp_path: Path) -> None:
    chosen = cells()[: len(AFTERWARDS)]
    by_key = {
        each.key: Fate(afterwards=what) for each, what in zip(chosen, AFTERWARDS, strict=True)
    }
    driver = Driver(tmp_path, by_key)
    driver.settle(chosen)
    assert [end["status"] for end in end_rows(tmp_path)] == ["finished"] * len(chosen)
    assert len(driver.tuning.started) == len(chosen)


def test_stop_of_a_trial_without_a_rung_has_no_result_to_write(tmp_path: Path) -> None:
    (only,) = cells()[:1]
    driver = Driver(tmp_path)
    driver.results.cells[only.key] = only
    driver.results.on_stopped(only.key, "asha")
    assert end_rows(tmp_path) == []
    driver.close()


def test_scheduler_is_told_what_killed_drivers_and_this_one_have_reached(tmp_path: Path) -> None:
    one, two = cells()[:2]
    first = Driver(tmp_path, {one.key: Fate(score=0.25)}, between=after(4, Killed))
    with pytest.raises(Killed):  # behind the end of `one`, at the rung of `two`
        first.sweep.settle([one, two])
    first.die()
    second = Driver(tmp_path, {two.key: Fate(setbacks=("lost",), score=0.75)})
    second.sweep.settle([one, two], scheduler="asha")
    second.close()
    assert second.tuning.schedulers == ["asha", "asha"]
    told = [(each["trial_key"], each["compared"]) for each in second.tuning.past[0]]
    assert told == [(one.key, 0.25)]
    third = Driver(tmp_path, options=Options(fresh=True))
    third.sweep.settle([one], scheduler="asha")
    third.sweep.settle([two], scheduler="asha")
    third.close()
    told = [(each["trial_key"], each["compared"]) for each in third.tuning.past[1]]
    assert told == [(one.key, 0.25), (two.key, 0.75), (one.key, 0.5)]


def test_trials_that_have_run_are_held_no_longer_though_the_driver_goes_on(tmp_path: Path) -> None:
    driver, other = Driver(tmp_path), Driver(tmp_path)
    held: list[set[str]] = []
    driver.tuning.between = lambda: held.append(set(other.leases.others()))
    keys = [each.key for each in cells()[:2]]
    driver.sweep.settle(cells()[:2])
    held.append(set(other.leases.others()))
    assert held == [set(keys)] * (len(held) - 1) + [set()]
    driver.close()
    other.close()


def test_ledger_that_cannot_be_written_then_neither_mlflow_nor_the_board_has_the_trial(
    tmp_path: Path,
) -> None:
    (tmp_path / "ledger").mkdir()
    segment = tmp_path / "ledger" / "read_only.jsonl"
    segment.touch()
    driver = Driver(tmp_path, ledger=Ledger(segment, segment.open("rb", buffering=0)))
    with pytest.raises(LedgerError, match="cannot append"):
        driver.sweep.settle(cells()[:1])
    assert (driver.witness.logged, driver.witness.shown) == ([], [])
    assert driver.results.outcome.counts == {}
    driver.die()


def test_warning_of_a_trial_is_said_once(tmp_path: Path) -> None:
    (only,) = cells()[:1]
    driver = Driver(tmp_path)
    driver.results.cells[only.key] = only
    told = {"status": "running", "progress": 0.25}
    for _ in range(2):
        driver.results.on_result(only.key, {**told, "unrestored": "layer 3"})
        driver.results.on_result(only.key, {**told, "gpus_unused": True, "hostname": "n"})
        why = {"pack_given_up": "OutOfMemoryError: no", "hostname": "n"}
        driver.results.on_result(only.key, {**told, **why})
    assert len(driver.said) == 3
    assert "node n: trials cannot be trained together (OutOfMemoryError: no)" in driver.said[2]
    assert "method=ft_m did not restore the backbone (layer 3)" in driver.said[0]
    assert "node n: Ray gave trials a GPU" in driver.said[1]
    driver.close()


def test_misplaced_trial_of_a_search_ends_it(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.results.may_repeat = False
    with pytest.raises(UsageError, match="cannot run this search: node n: too old"):
        driver.results.on_misplaced("key", "node n: too old")
    driver.close()
