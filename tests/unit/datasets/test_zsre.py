"""ZsRE files: what becomes of each field, and of every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainables.datasets import zsre
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Question
from trainables.reading.loaded import Excluded


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "subject": "Lake Vane",
        "src": "Which river feeds Lake Vane?",
        "rephrase": "What river runs into Lake Vane?",
        "alt": " Orm ",
        "answers": ["Tarn", "River Tarn"],
        "loc": "nq question: who wrote the long winter",
        "loc_ans": "Ada Moss",
    } | changes


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in fields().items() if name != key}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_load_full_record_maps_every_field(tmp_path: Path) -> None:
    one_hop = {"Recalled Relation": "-", "New Question": " Where is Orm? ", "New Answer": "Eld"}
    (record,) = zsre.load(write(tmp_path / "z.jsonl", fields(portability=one_hop))).records
    assert record.record_id == "zsre-1"
    assert record.prompt == "Which river feeds Lake Vane?"
    assert record.target_new == "Orm"  # stripped
    assert record.true_answer == "Tarn"
    assert record.subject == "Lake Vane"
    assert record.rephrases == ("What river runs into Lake Vane?",)
    assert record.locality == (Question("who wrote the long winter", "Ada Moss", "locality_far"),)
    assert record.portability == (Question("Where is Orm?", "Eld", "portability"),)


def test_load_target_field_answers_takes_the_first_and_changes_the_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", fields())
    by_answer = zsre.load(path, "answers")
    assert by_answer.records[0].target_new == "Tarn"
    assert by_answer.digest != zsre.load(path).digest


@pytest.mark.parametrize(("answers", "kept"), [(["Tarn"], 0), (["Orm", "Tarn"], 1)])
def test_load_portability_follows_from_alt_alone(
    tmp_path: Path, answers: list[str], kept: int
) -> None:
    one_hop = {"New Question": "Where is Orm?", "New Answer": "Eld"}
    path = write(tmp_path / "z.jsonl", fields(portability=one_hop, alt="Orm", answers=answers))
    assert len(zsre.load(path).records[0].portability) == 1
    assert len(zsre.load(path, "answers").records[0].portability) == kept


@pytest.mark.parametrize("answers", [[], [""], None])
def test_load_record_without_true_answer_can_still_be_edited_towards_alt(
    tmp_path: Path, answers: Any
) -> None:
    path = write(tmp_path / "z.jsonl", fields(answers=answers))
    assert zsre.load(path).records[0].true_answer is None
    with pytest.raises(DataError, match="line 1: answers is missing or empty"):
        zsre.load(path, "answers")


def test_load_locality_without_marker_is_kept_as_it_is(tmp_path: Path) -> None:
    (record,) = zsre.load(write(tmp_path / "z.jsonl", fields(loc="who sang it"))).records
    assert record.locality[0].prompt == "who sang it"


def test_load_same_records_in_three_layouts_are_equal(tmp_path: Path) -> None:
    rows = [fields(src="Which river feeds Lake Vane?"), fields(src="And Lake Vane, by whom?")]
    lines = zsre.load(write(tmp_path / "z.jsonl", *rows))
    as_list = tmp_path / "z.json"
    as_list.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    zipped = tmp_path / "no_suffix"
    zipped.write_bytes(gzip.compress((tmp_path / "z.jsonl").read_bytes()))
    assert zsre.load(as_list).records == lines.records
    assert zsre.load(zipped).records == lines.records
    assert zsre.load(as_list).lines == lines.lines == (1, 2)


def test_load_unusable_records_are_listed_with_line_and_reason(tmp_path: Path) -> None:
    path = write(
        tmp_path / "z.jsonl",
        fields(alt="  "),
        without("rephrase"),
        fields(),
        fields(answers=[3]),
        ["not", "an", "object"],
        fields(loc="nq question: "),
        fields(src="\ud800"),
        fields(portability={"New Question": "q"}),
    )
    loaded = zsre.load(path)
    assert loaded.lines == (3,)
    assert [record.record_id for record in loaded.records] == ["zsre-3"]
    file = str(path)
    assert loaded.excluded == (
        Excluded(file, 1, "alt is empty"),
        Excluded(file, 2, "rephrase is missing"),
        Excluded(file, 4, "answers is of type int, not text"),
        Excluded(file, 5, "not a JSON object"),
        Excluded(file, 6, "loc is empty behind its marker"),
        Excluded(file, 7, "src is not valid Unicode"),
        Excluded(file, 8, "New Answer is missing"),
    )


def test_load_subject_absent_from_prompt_is_kept_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", fields(), fields(subject="lake vane"), without("subject"))
    loaded = zsre.load(path)
    assert len(loaded.records) == 3
    assert loaded.num_subject_missing == 2  # other letter case, and no subject at all
    assert loaded.records[2].subject is None


def test_load_blank_lines_and_separators_inside_texts_do_not_shift_lines(tmp_path: Path) -> None:
    path = tmp_path / "z.jsonl"
    odd = json.dumps(fields(rephrase="a\u2028b\x85c"), ensure_ascii=False)
    path.write_text(f"\ufeff{odd}\r\n\n{json.dumps(fields())}\n", encoding="utf-8", newline="")
    loaded = zsre.load(path)
    assert loaded.lines == (1, 3)
    assert loaded.records[0].rephrases == ("a\u2028b\x85c",)


def test_load_digest_follows_the_content_not_the_name(tmp_path: Path) -> None:
    first = zsre.load(write(tmp_path / "a.jsonl", fields())).digest
    assert zsre.load(write(tmp_path / "b.jsonl", fields())).digest == first
    assert zsre.load(write(tmp_path / "b.jsonl", fields(pred="x"))).digest != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "holds no records"),
        (b"[]", "holds no records"),
        (b'{"src": "q"}\n{"src": ', r"line 2: not valid JSON"),
        (b'[\n{"src": "q"},\n{"src" "q"}]', r"line 3: not valid JSON"),
        (b"\xef\xbb\xbf{}\n\xff\n", r"line 2: not UTF-8"),
        (b"[" * 100_000, r"line 1: not usable JSON"),
        (gzip.compress(b"{}" * 500, mtime=0)[:-12], "broken gzip"),
        (b'{"src": "q", "alt": "a"}\n', r"none of its 1 records is usable.*line 1: rephrase"),
    ],
)
def test_load_broken_file_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        zsre.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_missing_file_or_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        zsre.load(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="directory"):
        zsre.load(tmp_path)


def test_load_unknown_target_field_names_the_allowed_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", fields())
    with pytest.raises(ConfigError, match=r"dataset.target_field is 'pred'.*alt or answers"):
        zsre.load(path, "pred")


def test_load_edit_towards_any_true_answer_changes_nothing(tmp_path: Path) -> None:
    rows = [fields(), fields(alt="Tarn "), fields(alt="River Tarn"), fields(alt="tarn")]
    path = write(tmp_path / "z.jsonl", *rows)
    loaded = zsre.load(path)
    assert len(loaded.records) == 4
    assert set(loaded.unchanged) == {"zsre-2", "zsre-3"}
    changed = loaded.without_unchanged()
    assert [record.record_id for record in changed.records] == ["zsre-1", "zsre-4"]
    assert changed.lines == (1, 4)
    assert changed.excluded[0] == Excluded(
        str(path), 2, "its target 'Tarn' was true before: nothing changes"
    )
    assert changed.digest != loaded.digest  # other records are drawn
    by_answer = zsre.load(path, "answers")  # meant to teach the truth
    assert by_answer.without_unchanged() is by_answer


def test_load_without_unchanged_edits_stays_what_it_was(tmp_path: Path) -> None:
    loaded = zsre.load(write(tmp_path / "z.jsonl", fields()))
    assert loaded.without_unchanged().digest == loaded.digest
    only = zsre.load(write(tmp_path / "u.jsonl", fields(alt="Tarn")))
    with pytest.raises(
        DataError, match=r"dataset\.keep_unchanged is false, and none of the 1 edits"
    ):
        only.without_unchanged()


def test_load_several_files_are_read_one_after_another(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", fields(), fields(alt=""), fields(src="Who?"))
    second = write(tmp_path / "b.jsonl", fields(), fields(src="What now?"), fields(src="Who else?"))
    loaded = zsre.load([first, second])
    ids = [record.record_id for record in loaded.records]
    assert ids == ["zsre-1", "zsre-3", "zsre-2:1", "zsre-2", "zsre-2:3"]
    assert loaded.lines == (1, 3, 4, 5, 6)  # as if they were one file
    assert loaded.excluded == (Excluded(str(first), 2, "alt is empty"),)
    assert loaded.num_repeated == 1  # the lake's river is asked for in both
    # names of files are no part of an id or of the digest; their order is
    renamed = [tmp_path / "c.jsonl", tmp_path / "d.jsonl"]
    for old, new in zip((first, second), renamed, strict=True):
        old.rename(new)
    assert zsre.load(renamed).digest == loaded.digest
    assert zsre.load(renamed[::-1]).digest != loaded.digest
    with pytest.raises(DataError, match=r"gone\.jsonl: there is no such file"):
        zsre.load([*renamed, tmp_path / "gone.jsonl"])


def test_load_template_without_subject_is_left_out(tmp_path: Path) -> None:
    row = without("subject") | {"src": "Which river feeds {}?"}
    loaded = zsre.load(write(tmp_path / "z.jsonl", row, fields(src="Which river feeds {}?")))
    assert loaded.lines == (2,)
    assert loaded.records[0].prompt == "Which river feeds Lake Vane?"
    assert "is a template, and there is no subject" in loaded.excluded[0].reason


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("EDITING_DATA")
    if not folder:
        pytest.skip("EDITING_DATA is not set, so there is no real ZsRE file to read")
    return Path(folder) / "zsre"


def test_load_real_evaluation_file_is_read_whole(real_data: Path) -> None:
    loaded = zsre.load(real_data / "zsre_eval.jsonl")
    assert len(loaded.records) == 3852
    assert loaded.excluded == ()
    assert loaded.num_subject_missing == 0
    assert sum(bool(record.portability) for record in loaded.records) == 1037
    assert not any(r.locality[0].prompt.startswith("nq question") for r in loaded.records)
    # `alt` is the first of `answers` in 137, another of them in one
    assert len(loaded.without_unchanged().records) == 3852 - 138


def test_load_real_training_file_leaves_out_its_two_empty_targets(real_data: Path) -> None:
    loaded = zsre.load(real_data / "zsre_train_1k.jsonl")
    assert len(loaded.records) == 998
    assert [row.reason for row in loaded.excluded] == ["alt is empty"] * 2


def test_load_real_question_and_answer_file_is_refused(real_data: Path) -> None:
    with pytest.raises(DataError, match="none of its 10000 records is usable"):
        zsre.load(real_data / "zsre_train_10k_qa.jsonl")
