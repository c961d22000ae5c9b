"""Tasks in a trial: asked after each batch that is rolled back, or once at a stream's end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.trials.test_loop import make_loop
from trainables.ability.abilities import KIND, abilities
from trainables.ability.definitions import digest_of
from trainables.artefacts import Artefacts, key_of
from trainables.interfaces import Backbone
from trainables.spec import EvaluateSpec
from trainables.states import read_state, snapshot, write_state

WANTED = EvaluateSpec(("world_text", "reserved_facts"), 5)


def test_a_batch_is_asked_before_it_is_rolled_back(llama: Backbone, tmp_path: Path) -> None:
    asked = abilities(WANTED, llama, Artefacts(tmp_path))
    loop = make_loop(llama, tmp_path, [[0, 1], [2, 3]], is_rolled_back=True, abilities=asked)
    row = loop.run()
    batches = [line["batch"] for line in loop.record_lines() if line["when"] == "ability"]
    assert [batches.count(number) for number in (0, 1)] == [10, 10]  # two tasks of 5 questions
    assert row["ability.world_text.final"] != row["ability.world_text.before"]  # the edits were in
    change = row["ability.world_text.final"] - row["ability.world_text.before"]
    assert row["ability_change.world_text"] == pytest.approx(change)
    assert row["evaluation_seconds"] > 0


def test_a_stream_is_asked_at_its_end_alone(llama: Backbone, tmp_path: Path) -> None:
    asked = abilities(WANTED, llama, Artefacts(tmp_path))
    loop = make_loop(llama, tmp_path, [[0, 1], [2, 3]], is_rolled_back=False, abilities=asked)
    loop.run()
    lines = [line for line in loop.record_lines() if line["when"] == "ability"]
    assert len(lines) == 10
    loop.close()


def test_a_trial_that_stops_between_two_batches_goes_on_with_what_it_has_asked(
    llama: Backbone, tmp_path: Path
) -> None:
    asked = abilities(WANTED, llama, Artefacts(tmp_path))
    batches = [[0, 1], [2, 3]]
    whole = make_loop(llama, tmp_path, batches, is_rolled_back=True, abilities=asked).run()
    first = make_loop(llama, tmp_path, batches, is_rolled_back=True, abilities=asked)
    first.run(0.5)
    write_state(tmp_path / "state", snapshot(first.state()))
    first.close()
    second = make_loop(llama, tmp_path, batches, is_rolled_back=True, abilities=asked)
    state = read_state(tmp_path / "state")
    assert state is not None
    second.load(state)
    row = second.run()
    named = [name for name in whole if name.startswith("ability")]
    assert len(named) == 6
    assert {name: row[name] for name in named} == {name: whole[name] for name in named}
    second.close()


def test_the_unedited_backbone_is_asked_once_for_all_trials(
    llama: Backbone, tmp_path: Path
) -> None:
    first = abilities(WANTED, llama, Artefacts(tmp_path))
    inputs = {**llama.identity, "task": digest_of(WANTED, "world_text")}
    folder = tmp_path / key_of(KIND, inputs)
    written = (folder / "meta.json").read_text()
    second = abilities(WANTED, llama, Artefacts(tmp_path))  # another process
    assert second.before == first.before
    assert (folder / "meta.json").read_text() == written
