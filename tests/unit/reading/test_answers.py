"""Files of answers: what is read, what is refused, and that what is written is read again."""

from __future__ import annotations

import gzip
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainables.errors import ConfigError, DataError
from trainables.reading.answers import Answers, answer_lines, read_answers
from trainables.records import EditRecord

BOSS = EditRecord("r0", "Who leads Orm?", "Ada", "Orm")
RIVER = EditRecord("r1", "The river of Eld is", "the Isk", "Eld")
LINES = """
{"prompt": " Who leads Orm? ", "subject": "Orm", "answers": ["Ivo", "Uli", "Ada"]}

{"prompt": "The river of Eld is", "answers": ["the Mell", "the Isk", "the Mell"]}
"""


def read(folder: Path, text: str) -> Answers:
    path = folder / "answers.jsonl"
    path.write_text(text, "utf-8")
    return read_answers(path)


def test_questions_keep_their_answers_in_order_and_are_found_by_prompt_and_subject(
    tmp_path: Path,
) -> None:
    found = read(tmp_path, LINES)
    assert found.of(BOSS) == ("Ivo", "Uli", "Ada")
    assert found.of(RIVER) == ("the Mell", "the Isk", "the Mell")  # one may come back later
    assert [question.line for question in found.questions] == [2, 4]
    assert found.of(EditRecord("r2", "Who leads Orm?", "Ada", "Orm II")) is None
    assert found.of(EditRecord("r3", "Who leads Orm?", "Ada")) == ("Ivo", "Uli", "Ada")
    assert found.of(EditRecord("r4", "Who leads Eld?", "Ada", "Orm")) is None


def test_digest_is_of_the_content_and_a_list_or_gzip_is_read_too(tmp_path: Path) -> None:
    plain = read(tmp_path, LINES)
    rows = [json.loads(line) for line in LINES.split("\n") if line]
    packed = tmp_path / "answers.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(rows).encode()))
    listed = read_answers(packed)
    assert [q.answers for q in listed.questions] == [q.answers for q in plain.questions]
    assert listed.digest != plain.digest == read(tmp_path, LINES).digest


def asked(**fields: Any) -> str:
    return json.dumps({"prompt": "Who?", "answers": ["a", "b"], **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"answers.jsonl: the file is empty"),
        ("\n\n", r"answers.jsonl: the file holds no questions"),
        (asked() + '\n{"prompt": "Wh', r"answers.jsonl, line 2: not valid JSON"),
        ("[1]", r"line 1: not a JSON object"),
        (asked(answer="a"), r"line 1: 'answer' is no key; keys are prompt, subject, answers"),
        ('{"answers": ["a", "b"]}', r"line 1: prompt is missing"),
        (asked(prompt=" "), r"line 1: prompt is empty"),
        (asked(subject=3), r"line 1: subject is of type int, not text"),
        ('{"prompt": "Who?"}', r"line 1: answers is missing; it must be a list of texts"),
        (asked(answers="a"), r"line 1: answers is 'a'; it must be a list of texts"),
        (asked(answers=[]), r"line 1: answers is \[\]; it must be a list of texts"),
        (asked(answers=["a", " "]), r"line 1: answer 2 is empty"),
        (asked(answers=["a", 2]), r"line 1: answer 2 is of type int, not text"),
        (asked(answers=["b", "a", "A "]), r"line 1: answers 2 and 3 are the same, 'A'"),
        (asked() + "\n" + asked(subject="x"), r"line 2: asks 'Who\?', as line 1 does"),
        (asked(subject="x") + "\n" + asked(subject="x"), r"line 2: asks 'Who\?', as line 1 does"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"dataset.answers is {tmp_path}/answers.jsonl")
    assert "\n" not in str(caught.value)


def test_one_prompt_about_two_subjects_is_two_questions(tmp_path: Path) -> None:
    found = read(tmp_path, asked(subject="x") + "\n" + asked(subject="y", answers=["c", "d"]))
    assert found.of(EditRecord("r", "Who?", "t", "y")) == ("c", "d")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.answers is .*gone: there is no such file"):
        read_answers(tmp_path / "gone")
    with pytest.raises(DataError, match=r"dataset.answers is .*: Is a directory"):
        read_answers(tmp_path)


def test_a_question_that_no_record_asks_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, LINES)
    found.check_known([BOSS, RIVER], "any")
    with pytest.raises(DataError, match=r"line 4: no record of dataset=any asks 'The river of"):
        found.check_known([BOSS], "any")
    other = EditRecord("r2", "Who leads Orm?", "Ada", "Orm II")
    with pytest.raises(DataError, match=r"line 2: .* about 'Orm'; there it is about 'Orm II'"):
        found.check_known([other, RIVER], "any")


def test_a_question_with_fewer_answers_than_asked_for_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, LINES + asked())
    found.check_enough(2)
    with pytest.raises(ConfigError, match=r"per_question is 3; .*, line 5: 'Who\?' has 2"):
        found.check_enough(3)


TEXTS = st.text(string.ascii_letters + 'é"\\\u2028 {}', min_size=1).map(str.strip).filter(bool)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        TEXTS,
        st.tuples(
            st.none() | TEXTS, st.lists(TEXTS, min_size=1, max_size=4, unique_by=str.casefold)
        ),
        min_size=1,
    )
)
def test_what_is_written_is_read_again(
    tmp_path: Path, questions: dict[str, tuple[str | None, list[str]]]
) -> None:
    records = [EditRecord("r", prompt, "t", subject) for prompt, (subject, _) in questions.items()]
    told = list(zip(records, (answers for _, answers in questions.values()), strict=True))
    found = read(tmp_path, "".join(answer_lines(told)))
    assert [found.of(record) for record in records] == [tuple(answers) for _, answers in told]
    found.check_known(records, "any")
