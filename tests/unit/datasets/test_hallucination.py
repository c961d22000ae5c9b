"""Files of passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainables.datasets import hallucination
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Question


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


@pytest.mark.parametrize(("name", "kept", "left_out"), [("edit", 593, 7), ("train", 301, 5)])
def test_real_files_are_read_and_empty_locality_texts_listed(
    editing_data: Path, name: str, kept: int, left_out: int
) -> None:
    path = editing_data / "hallucination" / f"hallucination_{name}.jsonl"
    loaded = hallucination.load(path)
    assert (len(loaded.records), len(loaded.excluded)) == (kept, left_out)
    assert {e.reason for e in loaded.excluded} == {"locality_ground_truth is empty"}
    assert loaded.num_subject_missing == 0
