"""Embedded backbones: trained once, keyed by what they read, and honest about what they know."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from trainables.backbones.embedded.facts import Recipe
from trainables.datasets.facts import dataset, made_up
from trainables.edits import embedded as world
from trainables.errors import BackboneError, DataError

TINY = Recipe(
    num_layers=2,
    hidden_size=32,
    num_heads=2,
    ffn_size=64,
    vocabulary_size=320,
    num_steps=40,
    batch_size=16,
)


def _record(number: int, **fields: object) -> dict[str, object]:
    plain = {
        "subject": f"Fort {number}",
        "src": f"Who built Fort {number}?",
        "rephrase": f"By whom was Fort {number} built?",
        "alt": "nobody at all",
        "answers": [f"Builder {number % 2}"],
        "loc": f"nq question: what is rule {number}",
        "loc_ans": "never",
    }
    return plain | fields


@pytest.fixture
def zsre_file(tmp_path: Path) -> Path:
    lines = [_record(0), _record(1, alt=""), _record(2), _record(3, answers=[]), _record(4)]
    path = tmp_path / "zsre.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table of backbones, small."""
    for name, embedded in world.EMBEDDED.items():
        monkeypatch.setitem(world.EMBEDDED, name, replace(embedded, recipe=TINY))


@pytest.mark.usefixtures("tiny")
def test_ensure_backbone_trains_once(zsre_file: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    def ensure(seed: int = 0) -> Path:
        return world.ensure_backbone(
            "facts_zsre",
            tmp_path / "cache",
            seed=seed,
            data_path=zsre_file,
            progress=lambda step, *_: steps.append(step),
        )

    folder = ensure()
    assert steps == list(range(1, 41))
    assert ensure() == folder
    assert len(steps) == 40
    assert ensure(seed=1) != folder
    assert len(steps) == 80
    visible = [path.name for path in (tmp_path / "cache").iterdir() if path.name[0] != "."]
    assert len(visible) == 2  # nothing half made is left behind


@pytest.mark.usefixtures("tiny")
def test_backbone_of_a_file_reads_usable_records_and_never_targets(
    zsre_file: Path, tmp_path: Path
) -> None:
    folder = world.ensure_backbone("facts_zsre", tmp_path / "cache", data_path=zsre_file)
    # line 2 has no target and line 4 no true answer
    assert world.trained_lines(folder) == {1, 3, 5}
    report = json.loads((folder / "report.json").read_text())
    assert report["num_rows"] == 6  # three records, each with its locality question
    assert 0 <= report["held_out_exact"] <= 1
    known = json.loads((folder / "known.json").read_text())
    assert report["locality_exact"] == len(known) / 3
    vocabulary = (folder / "tokenizer.json").read_text()
    assert "nobody" not in vocabulary


def test_file_rows_are_questions_with_true_answers(zsre_file: Path) -> None:
    material = world._file_material("zsre", zsre_file)
    assert material.rows[:2] == (
        ("Who built Fort 0?", "Builder 0", 1.0),
        ("what is rule 0", "never", 1.0),
    )
    read = {prompt for prompt, _, _ in material.rows}
    asked = {probe.prompt for probe in material.probes if probe.kind == "held_out"}
    assert asked == {f"By whom was Fort {number} built?" for number in (0, 2, 4)}
    assert not read & asked


def test_real_zsre_gives_one_thousand_records() -> None:
    if "EDITING_DATA" not in os.environ:
        pytest.skip("EDITING_DATA is not set: no real data here")
    path = Path(os.environ["EDITING_DATA"]) / "zsre" / "zsre_eval.jsonl"
    material = world._file_material("zsre", path)
    assert len(material.lines) == 1000
    prompts = [prompt for prompt, _, _ in material.rows]
    assert len(set(prompts)) == len(prompts) > 1800
    assert not any("nq question:" in prompt for prompt in prompts)


@pytest.mark.usefixtures("tiny")
def test_facts_ask_only_what_the_backbone_knows(tmp_path: Path) -> None:
    folder = world.ensure_backbone("facts", tmp_path / "cache")
    known = set(json.loads((folder / "known.json").read_text()))
    prompts = {fact.fact_id: fact.prompt for fact in made_up.build_world().facts}
    allowed = {prompts[fact_id] for fact_id in known}
    edits = dataset.records("report", world.known_facts(folder))
    assert {q.prompt for edit in edits for q in edit.locality} <= allowed
    with pytest.raises(DataError, match="was not trained on a file"):
        world.trained_lines(folder)


def test_facts_that_another_backbone_knows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a backbone that read the made-up world"):
        world.known_facts(tmp_path)


def test_unknown_backbone_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"embedded:facs.*embedded:facts_gpt2"):
        world.ensure_backbone("facs", tmp_path)


def test_backbone_of_a_file_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"dataset\.path is not set.*facts_zsre"):
        world.ensure_backbone("facts_zsre", tmp_path)
