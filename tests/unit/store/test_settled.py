"""Which trials a store has settled, as a dry run and --status tell it without loading anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.identity import fingerprint
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.store.ledger import History
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.settled import ended
from tests.unit.ended_trials import made_plan

RESOLVED = {"backbone_fingerprint": "w", "dataset_digest": "d", "method_version": 1}


def history_of(spec: TrialSpec) -> History:
    key = fingerprint(spec, RESOLVED)
    return History({key: EndRow(key, "finished", spec=spec.to_dict(), resolved=RESOLVED)}, {})


def on(spec: TrialSpec, model: Path | str, data: Any = None) -> TrialSpec:
    """The same trial on another checkpoint and other data files."""
    backbone, dataset = {**spec.backbone, "model": str(model)}, {**spec.dataset, "path": data}
    return replace(spec, backbone=backbone, dataset=dataset)


@pytest.mark.parametrize(
    ("before", "now", "is_settled"),
    [
        ("here/model", "here/model", True),
        ("here/model", "there/model", False),  # two checkpoints: the first is still where it was
        ("here/model", "here/other", False),
        ("gone/model", "there/model", True),  # moved, as far as anyone can tell
        ("gone/other", "there/model", False),
    ],
)
def test_ended_when_another_checkpoint_is_named_then_its_trial_is_not_settled(
    tmp_path: Path, before: str, now: str, is_settled: bool
) -> None:
    for name in ("here/model", "here/other", "there/model"):
        (tmp_path / name).mkdir(parents=True)
    trial = made_plan(tmp_path).trials[0]
    history = history_of(on(trial, tmp_path / before))
    (found,) = ended([on(trial, tmp_path / now)], history)
    assert (found is not None) == is_settled


@pytest.mark.parametrize(
    ("before", "now", "is_settled"),
    [
        ("a.json", "a.json", True),
        ("a.json", "b.json", False),
        (["a.json", "b.json"], ["a.json", "b.json"], True),
        (["a.json", "b.json"], ["a.json"], False),
        ("gone/a.json", "a.json", True),
        (None, "a.json", False),
    ],
)
def test_ended_when_other_data_are_named_then_its_trial_is_not_settled(
    tmp_path: Path, before: Any, now: Any, is_settled: bool
) -> None:
    def under(names: Any) -> Any:
        if isinstance(names, list):
            return [str(tmp_path / name) for name in names]
        return names and str(tmp_path / names)

    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("[]")
    trial = made_plan(tmp_path).trials[0]
    history = history_of(on(trial, "embedded:facts", under(before)))
    (found,) = ended([on(trial, "embedded:facts", under(now))], history)
    assert (found is not None) == is_settled


@pytest.mark.parametrize(
    ("before", "now", "is_settled"),
    [(None, None, True), ("a", "a", True), ("a", "b", False), (None, "a", False)],
)
def test_ended_when_other_answers_are_named_then_its_trial_is_not_settled(
    tmp_path: Path, before: str | None, now: str | None, is_settled: bool
) -> None:
    def named(name: str | None) -> TrialSpec:
        path = name and str(tmp_path / name)
        return replace(trial, dataset={**trial.dataset, "answers": path})

    for name in ("a", "b"):
        (tmp_path / name).write_text("[]")
    trial = made_plan(tmp_path).trials[0]
    (found,) = ended([named(now)], history_of(named(before)))
    assert (found is not None) == is_settled


def test_ended_when_a_model_id_is_another_then_its_trial_is_not_settled(tmp_path: Path) -> None:
    trial = made_plan(tmp_path).trials[0]
    history = history_of(on(trial, "one/model"))
    assert ended([on(trial, "other/model")], history) == [None]
    assert ended([on(trial, "one/model")], history) != [None]
