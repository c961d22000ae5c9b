"""What ends a Tuner that stands still; the main thread is blocked as Tune blocks it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from orchestrator.errors import StandstillError
from orchestrator.running import watchdog as module
from orchestrator.running.interruption import Interruption
from orchestrator.running.watchdog import HEARD_SECONDS, PulseTaker, Watchdog
from trainables.pulse import Pulse


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watching(clock: Clock, signs: list[object], silent: float | None = 10) -> Watchdog:
    made = Watchdog(Interruption(), silent, lambda: signs[-1], lambda: "trials: 3 pending", clock)
    made.look()
    return made


def test_standstill_is_said_only_after_the_whole_time_without_a_sign() -> None:
    clock, signs = Clock(), [object()]
    made = watching(clock, signs)
    for _ in range(5):
        clock.now += 9
        signs.append(object())
        made.look()
        assert not made._interruption.is_over
    clock.now += 9.9
    made.look()
    assert not made._interruption.is_over
    clock.now += 0.1
    made.look()
    said = r"^nothing has moved for max_silent_seconds=10 \(trials: 3 pending\)$"
    with pytest.raises(StandstillError, match=said), made._interruption.deferred():
        pass


def test_without_a_limit_nothing_is_ever_a_standstill() -> None:
    clock = Clock()
    made = watching(clock, [1], silent=None)
    clock.now += 1e9
    made.look()
    assert not made._interruption.is_over


@pytest.mark.parametrize("is_failure", [False, True])
def test_loop_that_is_stuck_is_left_though_it_asks_nobody(
    is_failure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    clock, interruption = Clock(), Interruption()
    made = Watchdog(interruption, 10, lambda: 1, lambda: "", clock)
    stuck = threading.Event()

    def run() -> None:
        with interruption.listening(), interruption.deferred(), made:
            made.look()
            clock.now += 10
            if is_failure:
                made.look()
            else:
                interruption.is_set = True  # Ctrl-C, which nobody in the loop asks for
            made.look()
            clock.now += HEARD_SECONDS
            stuck.wait(60)
            raise AssertionError("waited in vain")

    with pytest.raises(StandstillError if is_failure else KeyboardInterrupt):
        run()


def test_pulse_taker_looks_at_the_files_now_and_then_alone(tmp_path: Path) -> None:
    now = 0.0
    taker = PulseTaker(tmp_path, 20.0, lambda: now)
    assert taker.latest() is None
    file = tmp_path / "key.json"
    pulse = Pulse(tmp_path, lambda: 100.0 + now)
    pulse.begin("key", "name")
    now = 3.0  # a trial says nothing before it has taken two seconds
    pulse.write()
    assert taker.latest() is None  # 20 / 4 = 5 seconds have not passed
    now = 5.0
    assert file.is_file()
    first = taker.latest()
    assert first is not None
    os.utime(file, (first + 1, first + 1))
    now = 10.0
    assert taker.latest() == first + 1
