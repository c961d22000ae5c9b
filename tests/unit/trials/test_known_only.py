"""Trials that edit what their backbone knows, on one that was taught a few facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.file_trials import spec, write, zsre_line
from tests.unit.taught import taught
from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.edits.asking import known_facts
from trainables.errors import ConfigError
from trainables.spec import TrialSpec
from trainables.trials.asked import Asked
from trainables.trials.validation import Validator
from trainables.trials.workbench import Workbench

LINES = [zsre_line(number) for number in range(12)]
TAUGHT = [(line["src"], line["answers"][0]) for line in LINES[::2]]
TAUGHT.append((LINES[0]["loc"].removeprefix("nq question: "), "Ada"))


@pytest.fixture(scope="module")
def folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(checkpoints["llama"], tmp_path_factory.mktemp("taught"), TAUGHT)


@pytest.fixture
def wanted(folder: Path, tmp_path: Path) -> dict[str, Any]:
    told = spec(folder, "zsre", write(tmp_path / "zsre.jsonl", LINES))
    return told | {"dataset": told["dataset"] | {"part": "all", "known_only": True}}


def with_edits(wanted: dict[str, Any], num_edits: int) -> TrialSpec:
    return TrialSpec.parse(wanted | {"protocol": wanted["protocol"] | {"num_edits": num_edits}})


def in_all(wanted: dict[str, Any]) -> TrialSpec:
    return TrialSpec.parse(wanted | {"dataset": wanted["dataset"] | {"known_only": False}})


def row_of(bench: Workbench, trial: TrialSpec) -> tuple[dict[str, float], list[str]]:
    loop = bench.loop(trial)
    prompts, row = [record.prompt for record in loop.records], dict(loop.run())
    loop.close()
    return row, prompts


def test_known_facts_then_those_that_were_taught_and_asked_once(
    folder: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(folder)
    wrong = [(prompt, "Zurich") for prompt, _ in TAUGHT]
    facts = (*wrong, *TAUGHT)
    assert known_facts(facts, backbone, Artefacts(tmp_path)) == set(TAUGHT)
    assert known_facts((), backbone, Artefacts(tmp_path)) == set()
    # Another process finds the answer: this backbone could not give it.
    broken = replace(backbone, tokenizer=None)
    assert known_facts(facts, broken, Artefacts(tmp_path)) == set(TAUGHT)


def test_trial_with_known_only_then_taught_facts_are_drawn_and_counted(
    wanted: dict[str, Any], tmp_path: Path
) -> None:
    bench = Workbench(tmp_path / "cache")
    row, prompts = row_of(bench, with_edits(wanted, 6))
    assert set(prompts) == {prompt for prompt, _ in TAUGHT[:6]}
    assert (row["known_share"], row["known_facts"], row["facts_asked"]) == (1.0, 6.0, 12.0)
    asked = [q for record in bench.loop(with_edits(wanted, 6)).records for q in record.locality]
    assert [(q.prompt, q.answer) for q in asked] == TAUGHT[6:]  # of six questions the known one
    with pytest.raises(ConfigError, match=r"must lie in \[1, 6\].*knows 6 of 12 facts"):
        bench.loop(with_edits(wanted, 7))


def test_trial_on_all_facts_then_the_share_of_its_own_edits_that_was_known(
    wanted: dict[str, Any], tmp_path: Path
) -> None:
    row, prompts = row_of(Workbench(tmp_path / "cache"), in_all(wanted))
    known = {prompt for prompt, _ in TAUGHT}
    assert row["known_share"] == pytest.approx(sum(p in known for p in prompts) / 3)
    assert "known_facts" not in row


def test_driver_when_a_trial_has_asked_then_it_knows_without_asking(
    wanted: dict[str, Any], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    Workbench(cache).source(with_edits(wanted, 3))
    validator = Validator(cache, asked=Asked(cache, tell=_never))
    told = validator.validate(with_edits(wanted, 6))
    assert told == Validator(cache).validate(with_edits(wanted, 6))
    with pytest.raises(ConfigError, match="knows 6 of 12 facts"):
        validator.validate(with_edits(wanted, 7))
    said = [text for text in validator.warnings if "knows" in text]
    assert said == [
        "backbone=tiny knows 6 of 12 facts of dataset=zsre, dataset.part=all; the others are left "
        "out (dataset.known_only=true)"
    ]


@pytest.mark.slow
def test_driver_when_nobody_has_asked_then_a_process_of_its_own_does(
    wanted: dict[str, Any], tmp_path: Path
) -> None:
    cache, said = tmp_path / "cache", list[str]()
    validator = Validator(cache, asked=Asked(cache, tell=said.append))
    with pytest.raises(ConfigError, match="knows 6 of 12 facts"):
        validator.validate(with_edits(wanted, 7))
    assert said == ["asking backbone=tiny what it knows"]


def _never(stage: str) -> None:
    raise AssertionError(stage)
