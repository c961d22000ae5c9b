"""CounterFact files in flat form."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainables.datasets import counterfact
from trainables.errors import ConfigError, DataError
from trainables.records import Question


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


def nested(**changes: Any) -> dict[str, Any]:
    rewrite = {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "target_new": {"str": "Vey", "id": "Q1"},
        "target_true": {"str": "Tarn", "id": "Q2"},
        "subject": "Orland",
    }
    return {
        "case_id": 0,
        "pararel_idx": 3,
        "requested_rewrite": rewrite | changes.pop("rewrite", {}),
        "paraphrase_prompts": ["Orland is governed from", "A storm. Orland's seat is"],
        "neighborhood_prompts": ["The seat of Esk is", "Esk is governed from"],
        "attribute_prompts": ["The seat of Quill is"],
        "generation_prompts": ["Orland's weather is"],
    } | changes


def knowedit(**changes: Any) -> dict[str, Any]:
    return {
        "subject": "Orland",
        "prompt": "The capital of Orland is",
        "target_new": "Vey",
        "ground_truth": "Tarn",
        "portability": {
            "Subject_Aliasing": [{"prompt": "The capital of Orlandia is", "ground_truth": "Vey"}],
            "Reasoning": [
                {"prompt": "The mayor of Orland's capital is", "ground_truth": [["Ada"]]}
            ],
        },
        "locality": {"Relation_Specificity": [{"prompt": "Orland lies in", "ground_truth": "Eld"}]},
    } | changes


def test_load_nested_form_fills_the_template_and_takes_the_true_answer_nearby(
    tmp_path: Path,
) -> None:
    (record,) = counterfact.load(write(tmp_path / "c.jsonl", nested())).records
    assert record.prompt == "The capital of Orland is"
    assert (record.target_new, record.true_answer) == ("Vey", "Tarn")
    assert (record.subject, record.relation) == ("Orland", "P36")
    assert record.rephrases == ("Orland is governed from", "A storm. Orland's seat is")
    # what has the true answer, as the edit's own had
    assert record.locality == (
        Question("The seat of Esk is", "Tarn", "locality_near"),
        Question("Esk is governed from", "Tarn", "locality_near"),
    )
    assert record.portability == ()


def test_load_multi_counterfact_form_as_a_list_of_cases(tmp_path: Path) -> None:
    case = nested(neighborhood_prompts=[{"prompt": "The seat of Esk is", "target": "Moor"}])
    two = nested()
    case["requested_rewrite"] = [case["requested_rewrite"]]
    two["requested_rewrite"] = [two["requested_rewrite"]] * 2
    path = tmp_path / "m.json"
    path.write_text(json.dumps([case, two]))
    loaded = counterfact.load(path)
    (record,) = loaded.records
    assert record.prompt == "The capital of Orland is"
    assert record.locality == (Question("The seat of Esk is", "Moor", "locality_near"),)
    assert [(left_out.line, left_out.reason) for left_out in loaded.excluded] == [
        (2, "requested_rewrite holds 2 rewrites; a record changes one fact")
    ]


def test_load_knowedit_form_has_its_tables_of_questions(tmp_path: Path) -> None:
    own = knowedit(rephrase_prompt="Orland is governed from")
    path = write(tmp_path / "k.jsonl", knowedit(), own)
    first, second = counterfact.load(path).records
    assert first.rephrases == ("The capital of Orlandia is",)
    assert first.locality == (Question("Orland lies in", "Eld", "locality_same"),)
    assert first.portability == (
        Question("The mayor of Orland's capital is", "Ada", "portability"),
    )
    assert second.rephrases == ("Orland is governed from",)
    assert second.portability == first.portability


def test_load_flat_form_with_a_list_of_locality_prompts(tmp_path: Path) -> None:
    row = fields(locality=[{"prompt": "The seat of Esk is", "ground_truth": None}])
    del row["locality_prompt"], row["locality_ground_truth"]
    (record,) = counterfact.load(write(tmp_path / "c.jsonl", row)).records
    assert record.locality == (Question("The seat of Esk is", "Tarn", "locality_near"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (nested(paraphrase_prompts=[]), "paraphrase_prompts is empty"),
        (nested(neighborhood_prompts=[]), "neighborhood_prompts is missing or empty"),
        (nested(rewrite={"target_new": {"id": "Q1"}}), "target_new is of type NoneType, not text"),
        (nested(requested_rewrite="x"), "requested_rewrite holds no object; a record changes"),
        (nested(rewrite={"target_true": None}), "neighborhood_prompts has no answer"),
        (nested(rewrite={"subject": None}), "'The capital of {} is' is a template, and there"),
        (fields(locality_prompt="The capital of {} is"), "is an unfilled template"),
        ({"prompt": "p", "answer": "a"}, "locality; it has prompt, answer"),
    ],
)
def test_load_record_of_no_form_is_left_out_with_its_reason(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    loaded = counterfact.load(write(tmp_path / "c.jsonl", row, fields()))
    (left_out,) = loaded.excluded
    assert left_out.line == 1
    assert reason in left_out.reason
    assert loaded.lines == (2,)


@pytest.mark.parametrize("place", ["{}", "{subject}", "[X]"])
def test_load_flat_template_is_filled_with_its_subject(tmp_path: Path, place: str) -> None:
    row = fields(prompt=f"The capital of {place} is", rephrase_prompt=f"{place} is governed from")
    loaded = counterfact.load(write(tmp_path / "c.jsonl", row))
    (record,) = loaded.records
    assert record.prompt == "The capital of Orland is"
    assert record.rephrases == ("Orland is governed from",)
    assert loaded.num_subject_missing == 0


@pytest.mark.parametrize("typed", ["alt", "answers", "ground_truth", "nonsense"])
def test_load_knows_one_target_field_alone(tmp_path: Path, typed: str) -> None:
    path = write(tmp_path / "c.jsonl", fields())
    with pytest.raises(ConfigError, match=rf"target_field is '{typed}'; .* has target_new alone"):
        counterfact.load(path, typed)


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


def test_load_real_file_of_another_form_is_read_whole(editing_data: Path) -> None:
    loaded = counterfact.load(editing_data / "counterfact" / "counterfact_500_multi.jsonl")
    assert (len(loaded.records), loaded.excluded) == (500, ())
    assert {len(record.rephrases) for record in loaded.records} == {2}


def test_load_real_file_is_read_whole() -> None:
    folder = os.environ.get("EDITING_DATA")
    if not folder:
        pytest.skip("EDITING_DATA is not set, so there is no real CounterFact file to read")
    loaded = counterfact.load(Path(folder) / "counterfact" / "counterfact_edit.jsonl.gz")
    assert len(loaded.records) == 10_000
    assert loaded.excluded == ()
    assert loaded.num_subject_missing == 0
