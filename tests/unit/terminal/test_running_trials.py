"""What the driver shows of the trials that run."""

from __future__ import annotations

from pathlib import Path

from orchestrator.terminal.running_trials import Running, duration, running_trial
from trainables.pulse import Beat, Moment, Pulse


def beat(moment: Moment, key: str = "f1", written: float = 100.0) -> Beat:
    return Beat(key, "ft_m · seed 0", moment, 65.0, 12.0, written)


def test_a_trial_that_edits_shows_batch_step_and_loss() -> None:
    shown = running_trial(beat(Moment("editing", 2, 5, 30, 100, 0.12345)))
    assert shown.doing == "batch 2/5, step 30/100, loss 0.123"
    assert shown.time == "1:05"


def test_a_trial_that_does_something_else_shows_for_how_long() -> None:
    assert running_trial(beat(Moment("preparing")), age=3.0).doing == "preparing 0:15"
    assert running_trial(beat(Moment("editing", 1, 3))).doing == "batch 1/3, editing 0:12"
    training = beat(Moment("training a network", step=30, num_steps=40, loss=0.5))
    assert running_trial(training).doing == "training a network 0:12, step 30/40, loss 0.5"


def test_duration_has_hours_only_where_there_are_any() -> None:
    assert [duration(seconds) for seconds in (0.4, 65, 7207)] == ["0:00", "1:05", "2:00:07"]


def write(folder: Path, key: str) -> Pulse:
    now = [0.0]
    made = Pulse(folder, lambda: now[0])
    made.begin(key, f"arm of {key}")
    now[0] = 4.0
    made.write()
    return made


def test_running_trials_are_those_that_have_not_ended_and_silence_is_said(tmp_path: Path) -> None:
    folder, now = tmp_path / "pulses", [1000.0]
    running = Running(folder, lambda: now[0])
    running.look()
    assert running.trials == []  # the folder comes with the first pulse
    writers = {key: write(folder, key) for key in ("f1", "f2", "f3")}
    running.look()
    assert [trial.name for trial in running.trials] == ["arm of f1", "arm of f2", "arm of f3"]
    writers["f1"].end()
    running.ended("f2")  # its process was killed, and left the file
    now[0] += 45.0
    running.look()
    [left] = running.trials
    assert left.name == "arm of f3"
    assert left.doing == "starting 0:49, silent for 0:45"  # 4 s at the last word
    writers["f3"].tick()
    writers["f3"].write()
    running.look()
    assert running.trials[0].doing == "starting 0:04"
    running.clear()
    assert (running.trials, folder.exists()) == ([], False)
