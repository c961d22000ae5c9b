"""What a trial says of itself while it runs, and what of it reaches a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from trainables.optimise import Optimisation, OptimiserSettings
from trainables.pulse import Moment, Pulse, latest_pulse, pulse, read_pulses


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> Pulse:
    return Pulse(tmp_path / "pulses", clock)


def test_a_quick_trial_writes_nothing_and_a_long_one_says_where_it_is(
    tmp_path: Path, made: Pulse, clock: Clock
) -> None:
    made.begin("f1", "ft_m · seed 0")
    clock.now = 1.9
    made.write()
    assert not (tmp_path / "pulses").exists()
    clock.now = 3.0
    made.say(Moment("editing", 2, 5, 30, 100, 0.5))
    clock.now = 7.0
    made.write()
    [beat] = read_pulses(tmp_path / "pulses")
    assert (beat.key, beat.name) == ("f1", "ft_m · seed 0")
    assert beat.moment == Moment("editing", 2, 5, 30, 100, 0.5)
    assert (beat.seconds, beat.stage_seconds) == (7.0, 4.0)  # 7 - 0, 7 - 3


def test_a_trial_that_has_ended_leaves_no_file_and_none_comes_back(
    tmp_path: Path, made: Pulse, clock: Clock
) -> None:
    made.begin("f1", "one")
    clock.now = 5.0
    made.write()
    assert list((tmp_path / "pulses").iterdir()) == [tmp_path / "pulses" / "f1.json"]
    made.end()
    made.write()
    assert list((tmp_path / "pulses").iterdir()) == []
    assert latest_pulse(tmp_path / "pulses") is None


def test_the_file_is_as_old_as_the_last_sign_of_life(
    tmp_path: Path, made: Pulse, clock: Clock
) -> None:
    folder = tmp_path / "pulses"
    made.begin("f1", "one")
    clock.now = 5.0
    made.write()
    os.utime(folder / "f1.json", (1000, 1000))
    made.write()  # nothing was said since, and nothing done
    assert latest_pulse(folder) == 1000
    made.tick()
    made.write()
    assert (latest_pulse(folder) or 0) > 1000


def test_the_latest_of_several_trials_counts_and_what_is_no_pulse_does_not(tmp_path: Path) -> None:
    assert latest_pulse(tmp_path / "nowhere") is None
    for name, seconds in (("a", 50), ("b", 70)):
        one = Pulse(tmp_path, lambda: 0.0)
        one.begin(name, name)
        one._monotonic = lambda: 9.0
        one.write()
        os.utime(tmp_path / f"{name}.json", (seconds, seconds))
    (tmp_path / "torn.json").write_text('{"name": ')
    (tmp_path / "other.json").write_text("[1]")
    assert [beat.name for beat in read_pulses(tmp_path)] == ["a", "b"]
    assert latest_pulse(tmp_path) == 70


@pytest.mark.parametrize("num_losses", [1, 4])
def test_optimiser_steps_tell_their_mean_loss_to_the_trial_that_takes_them(
    num_losses: int, tmp_path: Path, made: Pulse, clock: Clock
) -> None:
    made.begin("f1", "one")
    weight = torch.nn.Parameter(torch.tensor(2.0))
    settings = OptimiserSettings("sgd", edit_lr=0.25, num_steps=10)
    steps = Optimisation({"weight": weight}, lambda: weight**2, settings, num_losses=num_losses)
    with made.as_current():
        assert pulse() is made
        pulse().say(Moment("editing", 1, 1, 0, 10))
        steps.advance(2)
    assert pulse() is not made
    steps.advance(1)  # nobody feels it
    clock.now = 3.0
    made.write()
    # w: 2 -> 2 - .25 * 4 = 1; the second step's loss is 1.
    told = Moment("editing", 1, 1, 2, 10, 1.0 / num_losses)
    assert read_pulses(tmp_path / "pulses")[0].moment == told
