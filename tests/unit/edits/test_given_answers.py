"""Serial streams whose answers come from a file: what is drawn, and what decides a trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.file_trials import spec, write, zsre_line
from trainables.draws.update_order import UPDATE_ORDERS
from trainables.edits.data_check import DataCheck
from trainables.edits.drawing import Drawn, draw
from trainables.edits.sources import open_source
from trainables.errors import ConfigError, DataError
from trainables.reading.answers import answer_lines
from trainables.spec import TrialSpec
from trainables.trials.workbench import Workbench

COUNTS = {"kind": "serial", "num_questions": 4, "answers_per_question": 3, "num_edits": 12}


def told(folder: Path, answers: Path | None = None, seed: int = 0, **protocol: Any) -> TrialSpec:
    path = write(folder / "z.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(folder, "zsre", path, **{**COUNTS, **protocol}) | {"seed": seed}
    wanted["dataset"] |= {"answers": None if answers is None else str(answers)}
    return TrialSpec.parse(wanted)


def drawn_by(wanted: TrialSpec, folder: Path) -> Drawn:
    return draw(wanted, open_source(wanted, folder))


def written(drawn: Drawn, path: Path, num_questions: int = 4) -> Path:
    """A file of the answers that were drawn."""
    asked = [
        (record, [each.target_new for each in drawn.records[number::num_questions]])
        for number, record in enumerate(drawn.records[:num_questions])
    ]
    path.write_text("".join(answer_lines(asked)))
    return path


def given(folder: Path, *rows: dict[str, Any]) -> Path:
    return write(folder / "given.jsonl", list(rows))


def asked(number: int, *answers: str) -> dict[str, Any]:
    return {"prompt": f"Where was person {number} born?", "answers": list(answers)}


def numbers_in_report(folder: Path) -> list[int]:
    records = open_source(told(folder), folder).records
    return [int((record.subject or "").removeprefix("person ")) for record in records]


def test_answers_that_were_written_give_the_same_edits_when_read(tmp_path: Path) -> None:
    made = drawn_by(told(tmp_path), tmp_path)
    path = written(made, tmp_path / "answers.jsonl")
    read = drawn_by(told(tmp_path, path), tmp_path)
    assert read.records == made.records
    assert read.questions == made.questions
    assert read.counts == {"last_answers_of_file": 0, "answers_not_told_apart": 0}
    # what is trained on, and groups of similar knowledge, are those of the data as before
    plain, source = (open_source(told(tmp_path, each), tmp_path) for each in (None, path))
    assert (source.training, source.records) == (plain.training, plain.records)


def test_questions_are_drawn_from_those_that_the_file_answers(tmp_path: Path) -> None:
    numbers = numbers_in_report(tmp_path)
    path = given(tmp_path, *(asked(number, "A", "B", "C") for number in numbers[3:9]))
    answered = {f"person {number}" for number in numbers[3:9]}
    for seed in (0, 1, 2):
        made = drawn_by(told(tmp_path, path, seed), tmp_path)
        assert {record.subject for record in made.records} <= answered
        assert [record.target_new for record in made.records] == [*"AAAA", *"BBBB", *"CCCC"]
    with pytest.raises(ConfigError, match=r"num_questions is 7; .*offers 6 .*in dataset.answers="):
        drawn_by(told(tmp_path, path, num_questions=7), tmp_path)


def test_of_more_answers_than_asked_for_the_last_ones_are_edited(tmp_path: Path) -> None:
    numbers = numbers_in_report(tmp_path)
    path = given(tmp_path, *(asked(number, "A", "B", "C", "D") for number in numbers[:4]))
    for num_answers, rounds in ((2, "CD"), (3, "BCD"), (4, "ABCD")):
        made = drawn_by(told(tmp_path, path, answers_per_question=num_answers), tmp_path)
        assert [record.target_new for record in made.records] == [a for a in rounds for _ in "1234"]
    with pytest.raises(ConfigError, match=r"answers_per_question is 5; .*line 1: .* has 4"):
        drawn_by(told(tmp_path, path, answers_per_question=5), tmp_path)


def test_the_last_answer_counts_and_portability_of_another_target_is_left_out(
    tmp_path: Path,
) -> None:
    numbers = numbers_in_report(tmp_path)[:4]
    own = {number: f"Town {number}" for number in numbers}
    rows = [asked(number, "A", "B", own[number]) for number in numbers[:3]]
    path = given(tmp_path, *rows, asked(numbers[3], "A", "B", "C"))
    wanted = told(tmp_path, path)
    source = open_source(wanted, tmp_path)
    follows = source.records[0].rephrases[0]
    portable = replace(
        source,
        records=tuple(
            replace(record, portability=(replace(record.locality[0], prompt=follows),))
            for record in source.records
        ),
    )
    made = draw(wanted, portable)
    assert made.counts["last_answers_of_file"] == 1
    last = {record.prompt: record for record in made.records[-4:]}
    for number in numbers:
        record = last[asked(number)["prompt"]]
        is_own = number != numbers[3]
        assert record.target_new == (own[number] if is_own else "C")
        assert bool(record.portability) == is_own
        assert record.locality
        assert record.rephrases


def test_an_answer_that_begins_the_last_one_is_never_called_stale(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    numbers = numbers_in_report(tmp_path)[:4]
    rows = [asked(number, "A", "B", "C") for number in numbers[:2]]
    rows += [asked(numbers[2], "Bar", "B", "bar city"), asked(numbers[3], "A", "B", "A")]
    made = drawn_by(told(tmp_path, given(tmp_path, *rows)), tmp_path)
    apart = {made.records[index].target_new for index in made.not_told_apart}
    assert len(made.not_told_apart) == made.counts["answers_not_told_apart"] == 3
    assert apart == {"Bar", "B", "A"}  # "B" begins "bar city"; "A" comes back after "B"
    wanted = replace(
        told(tmp_path, tmp_path / "given.jsonl"),
        backbone=replace(told(tmp_path).backbone, model=str(checkpoints["llama"])),
    )
    loop = Workbench(tmp_path / "cache").loop(wanted)
    row = loop.run()
    outdated = [line for line in loop.record_lines() if line["when"] == "outdated"]
    assert len(outdated) == 8 - 3
    assert row["count.answers_not_told_apart"] == 3


@pytest.mark.parametrize("update_order", UPDATE_ORDERS)
def test_in_every_order_the_last_answers_of_the_file_are_scored(
    tmp_path: Path, checkpoints: dict[str, Path], update_order: str
) -> None:
    numbers = numbers_in_report(tmp_path)[:4]
    path = given(tmp_path, *(asked(number, "A", "B", f"C {number}") for number in numbers))
    wanted = told(tmp_path, path, update_order=update_order)
    wanted = replace(wanted, backbone=replace(wanted.backbone, model=str(checkpoints["llama"])))
    loop = Workbench(tmp_path / "cache").loop(wanted)
    row = loop.run()
    assert row["edits_seen"] == 12
    scored = {score.record for score in loop.probe_scores()["final"]}
    assert {loop.records[index].target_new for index in scored} == {f"C {n}" for n in numbers}


def test_the_content_of_the_file_decides_a_trial_and_its_place_does_not(tmp_path: Path) -> None:
    numbers = numbers_in_report(tmp_path)[:4]
    rows = [asked(number, "A", "B", "C") for number in numbers]
    path = given(tmp_path, *rows)
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(path.read_bytes())
    other = write(tmp_path / "other.jsonl", rows[::-1])
    first, same, another, none = (
        open_source(told(tmp_path, each), tmp_path).digest for each in (path, moved, other, None)
    )
    assert first == same
    assert len({first, another, none}) == 3


def test_answers_are_refused_before_the_start_where_they_cannot_be_meant(tmp_path: Path) -> None:
    numbers = numbers_in_report(tmp_path)
    path = given(tmp_path, asked(99, "A", "B", "C"))
    with pytest.raises(DataError, match=r"line 1: no record of dataset=zsre asks 'Where was per"):
        DataCheck(tmp_path).check(told(tmp_path, path))
    tune = next(number for number in range(40) if number not in numbers)
    given(tmp_path, asked(tune, "A", "B", "C"))  # a question of the data, but of another part
    with pytest.raises(ConfigError, match=r"none of its 1 questions .* dataset.part=report"):
        DataCheck(tmp_path).check(told(tmp_path, path))
    given(tmp_path, asked(numbers[0], "A", "B", "C"))
    with pytest.raises(ConfigError, match=r"for protocol.kind=serial, not for .*=lifelong"):
        DataCheck(tmp_path).check(told(tmp_path, path, kind="lifelong"))
