"""WikiData-counterfact files: what becomes of each field, and which records are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainables.datasets import wiki_counterfact
from trainables.errors import DataError
from trainables.interfaces import Question


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "subject": "Ada Quell",
        "prompt": "The birthplace of Ada Quell is",
        "target_new": " Orm ",
        "ground_truth": "Vesper",
        "portability": {
            "Subject_Aliasing": [
                {"prompt": "The birthplace of A. Quell is", "ground_truth": [["Orm", "ORM"]]},
                {"prompt": "The birthplace of Ada Quell is", "ground_truth": [["Orm"]]},
            ],
            "Reasoning": [{"prompt": "Ada Quell was born in", "ground_truth": [["Eld", "EL"]]}],
            "Logical_Generalization": [{"prompt": "Born in Orm was", "ground_truth": [["Ada"]]}],
        },
        "locality": {
            "Relation_Specificity": [
                {"prompt": "Ada Quell works for", "ground_truth": [["Lumen", "LW"]]},
                {"prompt": "Ada Quell plays", "ground_truth": [[]]},
            ],
            "Forgetfulness": [{"prompt": "Besides Orm, Ada was born in", "ground_truth": "Vesper"}],
        },
    } | changes


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_load_full_record_maps_every_table(tmp_path: Path) -> None:
    (record,) = wiki_counterfact.load(write(tmp_path / "w.jsonl", fields())).records
    assert record.record_id == "wiki_counterfact-1"
    assert (record.prompt, record.target_new) == ("The birthplace of Ada Quell is", "Orm")
    assert (record.subject, record.true_answer) == ("Ada Quell", "Vesper")
    # an alias whose prompt is the edit's own asks nothing new
    assert record.rephrases == ("The birthplace of A. Quell is",)
    # of several spellings the first counts; a question without any is left out
    assert record.locality == (
        Question("Ada Quell works for", "Lumen", "locality_same"),
        Question("Besides Orm, Ada was born in", "Vesper", "locality_same"),
    )
    assert record.portability == (Question("Ada Quell was born in", "Eld", "portability"),)


def test_load_target_field_answers_edits_towards_the_truth(tmp_path: Path) -> None:
    path = write(tmp_path / "w.jsonl", fields())
    by_answer = wiki_counterfact.load(path, "answers")
    assert by_answer.records[0].target_new == "Vesper"
    assert by_answer.records[0].portability == ()  # it follows from Orm
    assert by_answer.digest != wiki_counterfact.load(path).digest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target_new": " "}, "target_new is empty"),
        ({"prompt": None}, "prompt is of type NoneType, not text"),
        ({"portability": {}}, "portability.Subject_Aliasing holds no other prompt"),
        ({"portability": None}, "portability.Subject_Aliasing holds no other prompt"),
        ({"portability": []}, "portability.Subject_Aliasing holds no other prompt"),
        ({"portability": ["x"]}, "portability is of type list, not an object"),
        (
            {"portability": {"Subject_Aliasing": "x"}},
            "portability.Subject_Aliasing is not a list of objects",
        ),
        (
            {"portability": {"Subject_Aliasing": [{"ground_truth": "Orm"}]}},
            "prompt is missing",
        ),
        ({"locality": {"Forgetfulness": []}}, "locality holds no usable"),
        (
            {"locality": {"Forgetfulness": [{"prompt": "p", "ground_truth": [3]}]}},
            "ground_truth is of type int, not text",
        ),
    ],
)
def test_load_unusable_record_is_left_out_with_its_line_and_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "w.jsonl", fields(), fields(**changes))
    loaded = wiki_counterfact.load(path)
    assert len(loaded.records) == 1
    [left_out] = loaded.excluded
    assert (left_out.file, left_out.line) == (str(path), 2)
    assert left_out.reason.startswith(reason)


def test_load_without_any_usable_record_names_the_first_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "w.jsonl", fields(locality=None))
    with pytest.raises(
        DataError, match=r"none of its 1 records .*line 1: locality holds no usable"
    ):
        wiki_counterfact.load(path)


def test_real_test_file_is_read_to_its_end(editing_data: Path) -> None:
    loaded = wiki_counterfact.load(editing_data / "wiki_cf" / "wiki_cf_test.jsonl")
    # of 885 records 201 have no alias and 26 others no locality question
    assert (len(loaded.records), len(loaded.excluded)) == (658, 227)
    assert loaded.num_subject_missing == 0
    assert sum(bool(record.portability) for record in loaded.records) == 266


def test_real_train_file_lists_answers_without_spellings(editing_data: Path) -> None:
    loaded = wiki_counterfact.load(editing_data / "wiki_cf" / "wiki_cf_train.jsonl")
    assert (len(loaded.records), len(loaded.excluded)) == (1404, 24)
