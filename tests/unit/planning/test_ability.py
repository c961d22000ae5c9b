"""What a plan makes of `evaluate`: the trials' part, their identity, their forecast, their tag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.forecast.costs import work, work_asked
from orchestrator.forecast.estimate import CPU_FLOPS, once_seconds, rough_seconds
from orchestrator.forecast.memory import memory
from orchestrator.planning.cell import Cell, Resolved
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings.loading import load
from orchestrator.store.rows import end_row, labelled
from trainables.spec import TrialSpec as ToldSpec

SMOKE = ["ablation=smoke", "seeds=[0]"]
WORLD = "evaluate.ability=[world_text,reserved_facts]"


def trials(*words: str) -> tuple[TrialSpec, ...]:
    return expand(load([*SMOKE, *words])).trials


def test_without_tasks_a_trial_is_what_it_was_before_there_were_any() -> None:
    (trial, *_) = trials()
    assert trial.evaluate == {}
    written = trial.to_dict()
    del written["evaluate"]  # as an earlier version wrote it
    assert TrialSpec.from_dict(written) == trial
    assert ToldSpec.parse(written) == ToldSpec.parse(trial.to_dict())
    assert "ability" not in Resolved("b", "d", 1).identity


def test_identity_moves_with_what_is_asked_and_not_with_where_it_lies(tmp_path: Path) -> None:
    (here, *_), (there, *_) = (
        trials("evaluate.ability=[boolq]", f"evaluate.path={tmp_path / name}") for name in "ab"
    )
    assert here.evaluate["path"] != there.evaluate["path"]
    asked = Resolved("b", "d", 1, ability="tasks")
    assert fingerprint(here, asked.identity) == fingerprint(there, asked.identity)
    others = (Resolved("b", "d", 1), Resolved("b", "d", 1, ability="other tasks"))
    assert len({fingerprint(here, each.identity) for each in (asked, *others)}) == 3


def test_a_path_that_is_typed_is_the_same_wherever_a_trial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (one, *_) = trials("evaluate.ability=boolq", "evaluate.path=tasks")
    assert one.evaluate == {
        "ability": ["boolq"],
        "questions": None,
        "path": str(tmp_path / "tasks"),
    }
    (several, *_) = trials("evaluate.ability=boolq", "evaluate.path=[tasks,/a/b.jsonl]")
    assert several.evaluate["path"] == [str(tmp_path / "tasks"), "/a/b.jsonl"]
    assert ToldSpec.parse(several.to_dict()).evaluate.ability == ["boolq"]


def test_forecast_counts_every_asking_and_the_unedited_backbone_once() -> None:
    def seconds(*words: str) -> tuple[float, float]:
        plan = trials(*words)
        return rough_seconds(plan[-1], CPU_FLOPS), once_seconds(plan)

    (plain, nothing), (once, unedited) = seconds(), seconds(WORLD)
    twice, still = seconds(WORLD, "protocol.num_batches=2", "protocol.num_edits=4")
    halved, _ = seconds(WORLD, "evaluate.questions=40")
    assert nothing == 0.0
    assert unedited == pytest.approx(once - plain)  # two arms, one backbone
    assert still == pytest.approx(unedited)
    assert twice - seconds("protocol.num_batches=2", "protocol.num_edits=4")[0] == pytest.approx(
        2 * (once - plain)
    )
    assert plain < halved < once
    (stream, *_) = trials(WORLD, "protocol.kind=lifelong", "protocol.num_batches=4")
    (same, *_) = trials("protocol.kind=lifelong", "protocol.num_batches=4")
    asked = work_asked(stream).operations  # at its end alone
    assert work(stream).operations - work(same).operations == pytest.approx(asked)


def test_memory_counts_the_questions_that_are_read_at_a_time() -> None:
    words = ["backbone=llama2_7b", "evaluate.path=/a"]
    (plain, *_) = trials(words[0])
    (short, *_), (long, *_) = (
        trials(*words, f"evaluate.ability=[{name}]") for name in ("sst2", "gsm8k")
    )
    stages = {stage.name for stage in memory(long).stages}
    assert stages - {stage.name for stage in memory(plain).stages} == {"ask"}
    (ask,) = (stage for stage in memory(long).stages if stage.name == "ask")
    assert ask.rows == pytest.approx(4096 / 860)  # 700 tokens and 160 to come
    assert memory(plain).peak_gib < memory(short).peak_gib < memory(long).peak_gib
    assert memory(long).least_gib < memory(long).peak_gib


def test_what_was_asked_stands_with_the_protocol_of_a_run() -> None:
    config = load([*SMOKE, WORLD, "evaluate.questions=40"])
    (trial, *_) = expand(config).trials
    cell = Cell("f", trial, Resolved("b", "d", 1, ability="tasks"))
    end = end_row(cell, {"status": "finished"}, stop_reason=None, checkpoints=[], provenance={})
    tags = labelled(end, trial, config).tags
    assert tags["protocol"] == trial.protocol | {
        "ability": "world_text, reserved_facts",
        "ability_questions": 40,
    }
    assert tags["ability"] == "tasks"
    plain = labelled(end, replace(trial, evaluate={}), config).tags
    assert plain["protocol"] == trial.protocol


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate.ability=[a,a]"], "name each task only once"),
        ([WORLD, "evaluate.questions=0"], "evaluate.questions=0"),
        (["evaluate.path=/a"], "evaluate.path: nothing is asked; it is for evaluate.ability"),
        (["evaluate.tasks=[a]"], "evaluate.tasks: no such name"),
        (["axes.evaluate.questions=[1,2]"], "axes.evaluate.questions"),
    ],
)
def test_load_when_what_is_asked_is_typed_wrong_then_one_line_says_so(
    words: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said.replace("[", r"\[")):
        trials(*words)
