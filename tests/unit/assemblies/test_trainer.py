"""The trainer of networks: once for all, as if never stopped, ended when nothing is gained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.assemblies import trainer
from trainables.assemblies.trainer import TrainerSettings, trained
from trainables.errors import DataError, EditDiverged
from trainables.interfaces import Edit, State, TrainingRecord
from trainables.pulse import Moment, Pulse, read_pulses

SETTINGS = TrainerSettings(
    name="mean",
    num_steps=40,
    records_per_step=2,
    validate_every=5,
    patience=40,
    held_out=0.25,
    most_held_out=100,
    seed=3,
)
# Ten subjects with two records each, whose targets are the numbers 0 to 9.
RECORDS = tuple(
    TrainingRecord(Edit(f"{wording} {number} is", str(number), f"s{number}"))
    for number in range(10)
    for wording in ("What", "Which")
)


class Mean:
    """Learns one number near all targets, by noisy steps with momentum."""

    def __init__(self, rate: float = 0.05, stops_at: int | None = None) -> None:
        self.value, self.speed = torch.zeros(1), torch.zeros(1)
        self.rate, self.stops_at, self.steps = rate, stops_at, 0
        self.seen: list[str] = []

    def step(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        if self.steps == self.stops_at:
            raise KeyboardInterrupt
        self.steps += 1
        self.seen += [record.edit.prompt for record in records]
        wanted = torch.tensor([float(record.edit.target_new) for record in records])
        noise = torch.randn(1, generator=generator)
        gradient = 2 * (self.value - wanted).mean() + 0.1 * noise
        loss = float(((self.value - wanted) ** 2).mean())
        self.speed = 0.5 * self.speed - self.rate * gradient
        self.value = self.value + self.speed
        return loss

    def loss(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        wanted = torch.tensor([float(record.edit.target_new) for record in records])
        return float(((self.value - wanted) ** 2).mean())

    def network(self) -> State:
        return State({"value": self.value})

    def state(self) -> State:
        return State({"value": self.value, "speed": self.speed}, {"steps": self.steps})

    def load(self, state: State) -> None:
        self.value, self.speed = state.tensors["value"], state.tensors["speed"]


def train(
    folder: Path,
    trainee: Mean,
    settings: TrainerSettings = SETTINGS,
    records: Sequence[TrainingRecord] = RECORDS,
) -> State:
    return trained(Artefacts(folder), "mean", {"of": 1}, records, settings, lambda _: trainee)


def test_trained_when_asked_again_then_reads_what_was_trained(tmp_path: Path) -> None:
    first, again = Mean(), Mean()
    state = train(tmp_path, first)
    read = train(tmp_path, again)
    assert (first.steps, again.steps) == (40, 0)
    assert torch.equal(state.tensors["value"], read.tensors["value"])
    assert read.values == state.values
    assert abs(float(state.tensors["value"]) - 4.5) < 3  # 0 at first; the mean is 4.5
    assert not list(tmp_path.glob("*.draft"))


def test_trained_when_anything_that_shapes_it_differs_then_trains_anew(tmp_path: Path) -> None:
    for changes in ({}, {"seed": 4}, {"num_steps": 5}, {"patience": 5}, {"held_out": 0.3}):
        trainee = Mean()
        train(tmp_path, trainee, replace(SETTINGS, **changes))  # type: ignore[arg-type]
        assert trainee.steps
    fewer = Mean()
    train(tmp_path, fewer, records=RECORDS[1:])
    assert fewer.steps


def test_trained_when_killed_then_goes_on_and_ends_as_if_it_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    whole = train(tmp_path / "whole", Mean())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Mean(stops_at=17))
    assert len(list((tmp_path / "cut").glob("*.draft"))) == 1
    rest = Mean()
    resumed = train(tmp_path / "cut", rest)
    assert rest.steps == 40 - 17
    assert torch.equal(resumed.tensors["value"], whole.tensors["value"])
    assert resumed.values == whole.values
    assert not list((tmp_path / "cut").glob("*.draft"))


def test_trained_when_a_draft_is_broken_then_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Mean(stops_at=17))
    (draft,) = tmp_path.glob("*.draft")
    draft.write_bytes(draft.read_bytes()[:-1])
    draft.with_name(f"{draft.name}.0f.tmp").write_bytes(b"half")  # killed as it wrote
    trainee = Mean()
    train(tmp_path, trainee)
    assert trainee.steps == 40
    assert not list(tmp_path.glob("*.tmp"))


def test_trained_when_nothing_is_gained_then_ends_with_the_best_network(tmp_path: Path) -> None:
    trainee = Mean(rate=3.0)  # swings ever further, from the first step on
    state = train(tmp_path, trainee, replace(SETTINGS, patience=10))
    losses = state.values["losses"]
    assert isinstance(losses, list)
    assert [step for step, *_ in losses] == [0, 5, 10]
    assert trainee.steps == state.values["steps"] == 10
    assert state.values["best_step"] == 0
    assert torch.equal(state.tensors["value"], torch.zeros(1))
    assert state.values["loss"] == min(loss for *_, loss in losses)


def test_trained_when_the_held_out_records_are_looked_at_first_then_that_is_training(
    tmp_path: Path,
) -> None:
    said: list[Moment] = []

    class Listening(Mean):
        def loss(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
            heard.write()
            said.extend(beat.moment for beat in read_pulses(tmp_path / "pulses"))
            return super().loss(records, generator)

    heard = Pulse(tmp_path / "pulses", monotonic=itertools.count(0.0, 60.0).__next__)
    heard.begin("key", "trial")
    with heard.as_current():
        train(tmp_path / "artefacts", Listening())
    heard.close()
    assert said[0] == Moment("training a network", step=0, num_steps=40)
    assert {moment.stage for moment in said} == {"training a network"}


def test_trained_when_records_are_held_out_then_no_subject_of_them_is_learned(
    tmp_path: Path,
) -> None:
    trainee = Mean()
    train(tmp_path, trainee)
    learned = {prompt.split()[1] for prompt in trainee.seen}
    assert len(learned) == 7  # 5 of 20 records are asked for, which three subjects make
    # Every record comes once before any comes twice: 14 of them, two a step.
    assert len(set(trainee.seen[:14])) == 14
    assert trainee.seen[:14] != trainee.seen[14:28]


def test_trained_when_the_loss_is_not_finite_then_says_when_and_stores_nothing(
    tmp_path: Path,
) -> None:
    with pytest.raises(EditDiverged, match=r"network of method mean diverged.* after \d+ of 40"):
        train(tmp_path, Mean(rate=math.inf))
    assert not list(tmp_path.glob("*/meta.json"))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_trained_when_there_are_too_few_records_then_says_how_many(
    count: int, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"there are {count}, of which .* a step takes 2"):
        train(tmp_path, Mean(), records=RECORDS[:count])
