"""Rows that come close together are committed together, and told of afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import LedgerError
from orchestrator.running.results import COMMIT_SECONDS
from tests.unit.fake_sweep import Driver, cells, end_rows, row


class Clock:
    """Says what it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the disk was waited for."""
    calls: list[int] = []
    sync = os.fsync

    def counted(file: int) -> None:
        calls.append(file)
        sync(file)

    monkeypatch.setattr(os, "fsync", counted)
    return calls


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver(tmp_path: Path, clock: Clock) -> Driver:
    made = Driver(tmp_path, clock=clock)
    made.results.cells = {each.key: each for each in cells()[:4]}
    made.results.board = made.witness
    return made


def ends(driver: Driver) -> Callable[[int], None]:
    """Lets a trial end, and Ray be asked for news."""

    def end(number: int) -> None:
        driver.results.on_result(cells()[number].key, row("finished", 1, 0.5))
        driver.results.on_step(has_moved=True)

    return end


def test_ends_that_come_close_together_wait_for_the_disk_once(
    driver: Driver, synced: list[int]
) -> None:
    for number in range(3):
        ends(driver)(number)
    written = [each["row_id"] for each in end_rows(driver.witness.store)]
    assert len(written) == 3  # a driver that is killed now loses nothing
    assert (synced, driver.witness.logged, driver.results.outcome.counts) == ([], [], {})
    driver.results.on_step(has_moved=False)
    assert len(synced) == 1
    assert driver.witness.logged == driver.witness.shown == written
    assert driver.results.outcome.counts == {"finished": 3}
    driver.results.on_step(has_moved=False)
    assert len(synced) == 1
    driver.close()


def test_ends_without_a_pause_between_them_wait_no_longer_than_so(
    driver: Driver, synced: list[int], clock: Clock
) -> None:
    ends(driver)(0)
    clock.now = 0.9 * COMMIT_SECONDS
    ends(driver)(1)
    assert driver.witness.logged == []
    clock.now = COMMIT_SECONDS
    ends(driver)(2)
    assert len(driver.witness.logged) == 3
    ends(driver)(3)  # the first of the next
    assert (len(synced), len(driver.witness.logged)) == (1, 3)
    driver.close()
    assert (len(synced), len(driver.witness.logged)) == (2, 4)


def test_disk_that_does_not_take_them_then_nobody_is_told_of_them_also_at_the_close(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends(driver)(0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _fails)
        with pytest.raises(LedgerError, match=r"cannot append to .*: Input/output error"):
            driver.results.on_step(has_moved=False)
    driver.close()  # a second try would be answered as if all were well
    assert (driver.witness.logged, driver.results.outcome.counts) == ([], {})


def _fails(file: int) -> None:
    raise OSError(5, os.strerror(5))
