"""What the per-record file tells of wrong answers, with the real FT method on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.unit.trials.test_loop import RECORDS, SERIAL, SERIAL_QUESTIONS, make_loop
from trainables.interfaces import Backbone, EditRecord

EDITS = ("reliability", "generality")


def test_lines_tell_of_each_wrong_answer_to_an_edit_and_of_no_other(
    llama: Backbone, tmp_path: Path
) -> None:
    loop = make_loop(llama, tmp_path, [[0, 1, 2]], is_rolled_back=False, num_steps=1)
    loop.run()
    chosen = loop._evaluator.select()
    now = loop._evaluator.answers(loop.method.logits, chosen)
    same_first = {
        (probe.score, probe.prompt): now[index][0] == loop._before.answers[index][0]
        for index, probe in enumerate(loop._evaluator.probes)
    }
    assert {same_first[key] for key in same_first if key[0] in EDITS} == {True, False}
    asked = {record.record_id: record.target_new for record in RECORDS}
    lines = [line for line in loop.record_lines() if line["when"] == "final"]
    wrong = [line for line in lines if line["score"] in EDITS and line["exact"] == 0.0]
    assert wrong
    for line in wrong:
        assert line["wrong"]["asked"] == asked[line["record_id"]]
        same = same_first[line["score"], line["prompt"]]
        assert line["wrong"]["pieces"]["is_unchanged"] == same  # all are wrong at once
        assert line["wrong"]["text"] is None  # nothing was generated
    assert all("wrong" not in line for line in lines if line not in wrong)
    loop.close()


def test_lines_when_an_edit_is_learned_then_its_answer_is_right_and_untold(
    llama: Backbone, tmp_path: Path
) -> None:
    loop = make_loop(llama, tmp_path, [[0]], is_rolled_back=True, num_steps=60, generates=True)
    loop.run()
    (edit,) = [line for line in loop.record_lines() if line["score"] == "reliability"]
    assert (edit["exact"], edit["generated"]) == (1.0, 1.0)
    assert "wrong" not in edit


def test_lines_when_the_answer_begins_as_the_true_one_then_old(
    llama: Backbone, tmp_path: Path
) -> None:
    def line_of(record: EditRecord) -> dict[str, Any]:
        how = {"num_steps": 1, "generates": True, "records": (record,)}
        loop = make_loop(llama, tmp_path, [[0]], is_rolled_back=True, **how)  # type: ignore[arg-type]
        loop.run()
        return next(line for line in loop.record_lines() if line["score"] == "reliability")

    unknown = line_of(RECORDS[0])["wrong"]["text"]
    assert unknown["old"] is None
    known = line_of(replace(RECORDS[0], true_answer=unknown["answer"]))["wrong"]["text"]
    assert known == {**unknown, "old": unknown["answer"]}


def test_old_answers_of_a_serial_stream_are_the_true_one_and_the_earlier_ones(
    llama: Backbone, tmp_path: Path
) -> None:
    records = tuple(replace(record, true_answer=f"T{n}") for n, record in enumerate(SERIAL))
    loop = make_loop(
        llama,
        tmp_path,
        [[0, 1], [2, 3]],
        is_rolled_back=False,
        records=records,
        questions=SERIAL_QUESTIONS,
    )
    assert loop._stream.old_answers(loop.records) == {
        **{0: ["T0"], 1: ["T1"], 2: ["T2", "Oslo Bay"], 3: ["T3", "Lumen"]}
    }
    loop.close()


def test_stream_of_one_batch_is_generated_at_its_end_too(llama: Backbone, tmp_path: Path) -> None:
    loop = make_loop(llama, tmp_path, [[0]], is_rolled_back=False, num_steps=60, generates=True)
    row = loop.run()
    assert row["reliability.generated.final"] == 1.0
    loop.close()
