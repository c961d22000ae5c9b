"""Edits that are each rolled back are learned side by side, and score as one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_every_method import EDITS
from tests.contract.test_every_method import make as make_method
from tests.unit.trials.test_loop import RELIABILITY, make_loop
from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.backbones.seen_apart import seen_apart
from trainables.interfaces import Backbone, EditMethod
from trainables.metrics.evaluator import ProbeScore
from trainables.prompts import edit_batch
from trainables.pulse import Moment, Pulse
from trainables.states import read_state, write_state
from trainables.trials.learner import Learner, Make
from trainables.trials.loop import EditLoop

SINGLE = [[2], [0], [3], [1]]
Loop = Callable[[Backbone], EditLoop]
Found = tuple[dict[str, float], list[ProbeScore]]


def ended(checkpoint: Path, loop_on: Loop) -> Found:
    backbone = load_backbone(checkpoint)
    pristine = Pristine(backbone.model, full_every=1)
    loop = loop_on(backbone)
    row = loop.run()
    pristine.check()
    timeless = {k: v for k, v in row.items() if not k.endswith("seconds")}
    return timeless, loop.probe_scores()["final"]


def stopped(checkpoint: Path, loop_on: Loop, at: float, state: Path) -> None:
    loop = loop_on(load_backbone(checkpoint))
    rung = loop.run(at, RELIABILITY)
    assert rung["progress"] == pytest.approx(at, abs=0.03)
    assert rung["edits_seen"] == math.ceil(4 * at)
    write_state(state, loop.state())


def gone_on(loop_on: Loop, path: Path) -> Loop:
    def made(backbone: Backbone) -> EditLoop:
        loop, state = loop_on(backbone), read_state(path)
        assert state is not None
        loop.load(state)
        return loop

    return made


def check_alike(found: Found, own: Found) -> None:
    (row, scores), (own_row, own_scores) = found, own
    assert scores == own_scores
    assert row == pytest.approx(own_row, abs=1e-5)
    assert row["num_steps"] == 80


def with_most(most: int, folder: Path) -> Loop:
    """A loop with a method that itself learns so many edits side by side."""

    def learner(make: Make) -> Learner:
        def made() -> EditMethod:
            method: Any = make()
            method.most_side_by_side = most
            return method  # type: ignore[no-any-return]

        return Learner(made)

    return lambda backbone: make_loop(
        backbone, folder, SINGLE, is_rolled_back=True, learner_of=learner
    )


@pytest.mark.parametrize("stops_at", [None, 0.1, 0.5, 0.6])
def test_single_edits_side_by_side_score_as_one_by_one(
    stops_at: float | None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Also with a rung, and in another process behind it, within a group or between two."""
    loop_on = with_most(4, tmp_path)
    if stops_at is not None:
        stopped(checkpoints["llama"], loop_on, stops_at, tmp_path / "state")
        loop_on = gone_on(loop_on, tmp_path / "state")
    check_alike(
        ended(checkpoints["llama"], loop_on), ended(checkpoints["llama"], with_most(1, tmp_path))
    )


def with_methods(folder: Path, *, each: bool) -> Loop:
    """A loop with a method that learns one edit; `each`: there may be one for each edit."""

    def loop_on(backbone: Backbone) -> EditLoop:
        def make(on: Backbone) -> EditMethod:
            settings: dict[str, Any] = {"edit_lr": 0.02, "num_steps": 20, "stop_loss": 0.0}
            return make_method("dense_adapter", on, Artefacts(folder), **settings)

        def learner(_: Make) -> Learner:
            make_apart = (lambda: make(seen_apart(backbone, 2))) if each else None
            return Learner(lambda: make(backbone), make_apart)

        return make_loop(backbone, folder, SINGLE, is_rolled_back=True, learner_of=learner)

    return loop_on


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("stops_at", [None, 0.1, 0.5, 0.6])
def test_single_edits_with_a_method_each_score_as_one_by_one(
    stops_at: float | None, has_room: bool, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Also in another process behind a rung, in which there may be no room for several methods."""
    loop_on = with_methods(tmp_path, each=True)
    if stops_at is not None:
        stopped(checkpoints["llama"], loop_on, stops_at, tmp_path / "state")
        loop_on = gone_on(with_methods(tmp_path, each=has_room), tmp_path / "state")
    own = ended(checkpoints["llama"], with_methods(tmp_path, each=False))
    check_alike(ended(checkpoints["llama"], loop_on), own)


def test_state_of_another_form_is_not_read(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    loop_on = with_methods(tmp_path, each=True)
    loop = loop_on(load_backbone(checkpoints["llama"]))
    loop.run(0.6)
    state = loop.state()
    state.values["form"] = 1
    other = loop_on(load_backbone(checkpoints["llama"]))
    other.load(state)
    assert other.progress == 0
    loop.close()


@pytest.mark.parametrize("has_method_each", [False, True])
def test_who_looks_at_edits_side_by_side_sees_the_steps_that_each_takes(
    has_method_each: bool, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    said: list[Moment] = []

    class Listening(Pulse):
        def say(self, moment: Moment) -> None:
            said.append(moment)
            super().say(moment)

    native, each = with_most(4, tmp_path), with_methods(tmp_path, each=True)
    loop = (each if has_method_each else native)(load_backbone(checkpoints["llama"]))
    with Listening(tmp_path / "pulses").as_current():
        loop.run()
    steps = [moment.step for moment in said if moment.stage == "editing"]
    assert max(steps) == 20
    assert {moment.num_steps for moment in said if moment.stage == "editing"} == {20}


def test_methods_of_single_edits_are_made_before_the_clock_of_editing_starts(
    llama: Backbone, tmp_path: Path
) -> None:
    made: list[EditMethod] = []

    def make(on: Backbone) -> EditMethod:
        made.append(make_method("dense_adapter", on, Artefacts(tmp_path)))
        return made[-1]

    learner = Learner(lambda: make(llama), lambda: make(seen_apart(llama, 2)))
    learner.make_ready(len(EDITS))
    assert len(made) == 1 + len(EDITS)
    learner.begin(edit_batch(llama.tokenizer, EDITS, end=True), len(EDITS))
    assert len(made) == 1 + len(EDITS)
    learner.roll_back(goes_on=False)
