"""Passages: files of them, and those of the made-up world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainables.datasets import hallucination
from trainables.datasets.facts import made_up
from trainables.errors import ConfigError, DataError
from trainables.interfaces import EditRecord, Question

FAR = Question("Who wrote Tides?", "Ivo Marsh", "locality_far")
NEAR = Question("Where was Ivo born?", "Orm", "locality_near")


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "prompt": "This is a passage about ada quell. Ada Quell was a pilot.",
        "target_new": "She was born in Orm.\n",
        "subject": "ada quell",
        "locality_prompt": "Maps of the north, cut in the mi",
        "locality_ground_truth": "ddle of a word.",
    } | changes


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_load_maps_every_field(tmp_path: Path) -> None:
    (record,) = hallucination.load(write(tmp_path / "h.jsonl", fields())).records
    assert record.target_new == "She was born in Orm."
    assert record.rephrases == ()
    far = Question("Maps of the north, cut in the mi", "ddle of a word.", "locality_far")
    assert record.locality == (far,)


@pytest.mark.parametrize(
    "key", ["prompt", "target_new", "locality_prompt", "locality_ground_truth"]
)
def test_load_record_with_an_empty_text_is_left_out(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "h.jsonl", fields(**{key: ""}), fields())
    loaded = hallucination.load(path)
    assert [(e.line, e.reason) for e in loaded.excluded] == [(1, f"{key} is empty")]
    assert len(loaded.records) == 1


def test_load_knows_one_target_field_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "h.jsonl", fields())
    with pytest.raises(ConfigError, match=r"dataset.target_field is 'answers'"):
        hallucination.load(path, "answers")
    with pytest.raises(DataError, match="line 1: locality_prompt is missing"):
        hallucination.load(write(tmp_path / "x.jsonl", {"text": "a"}))


def test_load_running_text_keeps_its_braces(tmp_path: Path) -> None:
    row = fields(locality_prompt="int main() {}")
    (record,) = hallucination.load(write(tmp_path / "h.jsonl", row)).records
    assert record.locality[0].prompt == "int main() {}"


def test_made_up_passage_tells_two_truths_and_edits_the_third() -> None:
    def record(
        number: int, subject: str = "Ada", locality: tuple[Question, ...] = (NEAR, FAR)
    ) -> EditRecord:
        return EditRecord(
            f"{subject}/{number}",
            f"What is fact {number} of {subject}?",
            f"new {number}",
            subject,
            locality=locality,
            true_answer=f"old {number}",
        )

    records = [record(1), record(1, "Ivo"), record(2), record(2, "Ivo"), record(3), record(4)]
    [passage] = hallucination.made_up_passages(records)  # of Ivo there are two facts alone
    assert passage.prompt == (
        "This is a passage about Ada. What is fact 1 of Ada? old 1. What is fact 2 of Ada? old 2."
    )
    assert passage.target_new == "What is fact 3 of Ada? new 3."
    assert (passage.record_id, passage.subject) == ("passage/Ada/3", "Ada")
    assert passage.locality == (FAR,)
    without_far = [record(n, locality=(NEAR,)) for n in (1, 2, 3)]
    assert hallucination.made_up_passages(without_far) == ()


def test_made_up_passages_of_the_world_are_as_many_as_its_yaml_says() -> None:
    world = made_up.build_world()
    counts = {
        part: len(hallucination.made_up_passages(made_up.records(world, part)))
        for part in ("report", "tune")
    }
    assert counts == {"report": 112, "tune": 48}


@pytest.mark.parametrize(("name", "kept", "left_out"), [("edit", 593, 7), ("train", 301, 5)])
def test_real_files_are_read_and_empty_locality_texts_listed(
    editing_data: Path, name: str, kept: int, left_out: int
) -> None:
    path = editing_data / "hallucination" / f"hallucination_{name}.jsonl"
    loaded = hallucination.load(path)
    assert (len(loaded.records), len(loaded.excluded)) == (kept, left_out)
    assert {e.reason for e in loaded.excluded} == {"locality_ground_truth is empty"}
    assert loaded.num_subject_missing == 0
