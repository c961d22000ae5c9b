"""CounterFact files in flat form."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainables.datasets import counterfact
from trainables.errors import DataError
from trainables.interfaces import Question


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "case_id": 7,
        "prompt": "The capital of Orland is",
        "target_new": "Vey",
        "subject": "Orland",
        "ground_truth": "Tarn",
        "rephrase_prompt": "Orland is governed from ",
        "locality_prompt": "The capital of Esk is",
        "locality_ground_truth": "Moor",
    } | changes


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_load_full_record_maps_every_field(tmp_path: Path) -> None:
    (record,) = counterfact.load(write(tmp_path / "c.jsonl", fields())).records
    assert record.record_id == "counterfact-1"  # the line, not the case_id
    assert record.prompt == "The capital of Orland is"
    assert record.target_new == "Vey"
    assert record.true_answer == "Tarn"
    assert record.subject == "Orland"
    assert record.rephrases == ("Orland is governed from",)
    assert record.locality == (Question("The capital of Esk is", "Moor", "locality_near"),)
    assert record.portability == ()


def test_load_several_rephrases_are_all_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", fields(rephrase_prompt=["one", " two"]))
    assert counterfact.load(path).records[0].rephrases == ("one", "two")


def test_load_target_field_answers_edits_towards_the_truth(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", fields())
    assert counterfact.load(path, "answers").records[0].target_new == "Tarn"


def test_load_empty_rephrase_list_or_locality_is_left_out_with_reason(tmp_path: Path) -> None:
    rows = [fields(rephrase_prompt=[]), fields(), fields(locality_ground_truth=None)]
    loaded = counterfact.load(write(tmp_path / "c.jsonl", *rows))
    assert loaded.lines == (2,)
    assert [(row.line, row.reason) for row in loaded.excluded] == [
        (1, "rephrase_prompt is empty"),
        (3, "locality_ground_truth is of type NoneType, not text"),
    ]


def test_load_file_of_another_data_set_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", {"src": "q", "alt": "a"}, {"src": "r", "alt": "b"})
    with pytest.raises(DataError, match=r"none of its 2 records.*line 1: .* is missing"):
        counterfact.load(path)


def test_load_real_file_is_read_whole() -> None:
    folder = os.environ.get("EDITING_DATA")
    if not folder:
        pytest.skip("EDITING_DATA is not set, so there is no real CounterFact file to read")
    loaded = counterfact.load(Path(folder) / "counterfact" / "counterfact_edit.jsonl.gz")
    assert len(loaded.records) == 10_000
    assert loaded.excluded == ()
    assert loaded.num_subject_missing == 0
