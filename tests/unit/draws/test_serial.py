"""Serial streams: which answers a question gets, in which order, and when the data has too few."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.counts import GENERATED_ANSWERS
from trainables.draws import serial
from trainables.draws.serial import answered_records, serial_records
from trainables.errors import ConfigError
from trainables.interfaces import EditRecord, Question

CITIES = ("Vesper", "Orm", "Tarnhelm", "Eldwick", "Bar City", "Quill")
RIVERS = ("the Isk", "the Mell", "the Ovar")


def record(
    number: int,
    target: str,
    *,
    true: str | None = None,
    relation: str | None = "city",
    prompt: str = "",
) -> EditRecord:
    return EditRecord(
        record_id=f"r{number}",
        prompt=prompt or f"Where was person {number} born?",
        target_new=target,
        subject=f"person {number}",
        rephrases=(f"Birthplace of {number}?",),
        locality=(Question("Who?", "Ivo", "locality_far"),),
        portability=(Question("In which land?", "Eld", "portability"),),
        true_answer=true,
        relation=relation,
    )


POOL = tuple(
    record(number, city, true=CITIES[number - 1]) for number, city in enumerate(CITIES)
) + tuple(record(10 + number, river, relation="river") for number, river in enumerate(RIVERS))


def test_stream_goes_round_by_round_and_ends_with_the_questions_as_drawn() -> None:
    made = serial_records(POOL[:2], POOL, 3, seed=0)
    assert made.questions == (0, 1, 0, 1, 0, 1)
    assert made.records[4:] == POOL[:2]
    assert [r.record_id for r in made.records[:4]] == ["r0#1", "r1#1", "r0#2", "r1#2"]
    earlier = made.records[0]
    # the same question and rephrases, but nothing that holds of the last answer alone
    assert (earlier.prompt, earlier.rephrases) == (POOL[0].prompt, POOL[0].rephrases)
    assert (earlier.locality, earlier.portability) == ((), ())
    assert made.num_topped_up == 0


def test_given_answers_take_the_place_of_the_targets_in_their_order() -> None:
    made = answered_records(POOL[:2], [("Ovar", "Orm", "Vesper"), ("Mell", "Isk", "Quill")])
    assert [r.target_new for r in made.records] == ["Ovar", "Mell", "Orm", "Isk", "Vesper", "Quill"]
    assert [r.record_id for r in made.records] == ["r0#1", "r1#1", "r0#2", "r1#2", "r0", "r1"]
    assert made.questions == (0, 1, 0, 1, 0, 1)
    assert made.records[4] == POOL[0]  # Vesper is its target
    assert made.records[5] == replace(POOL[1], target_new="Quill", portability=())
    assert made.num_other_targets == 1
    assert not made.not_told_apart


def test_given_answers_that_the_last_one_begins_with_are_named() -> None:
    # question 0: "vesper hill" begins with the last answer; question 1: "Or" begins it
    made = answered_records(POOL[:2], [("vesper hill", "Hill", "Vesper"), ("Ivo", "Or", "Orm")])
    assert made.not_told_apart == {0, 3}


def test_made_answers_are_all_told_apart_and_end_with_the_targets() -> None:
    made = serial_records(POOL[:4], POOL, 4, seed=0)
    assert (made.num_other_targets, made.not_told_apart) == (0, frozenset())


@given(st.integers(2, 5), st.integers(0, 2**32))
def test_answers_differ_from_each_other_and_from_the_true_one(num_answers: int, seed: int) -> None:
    made = serial_records(POOL[:4], POOL, num_answers, seed)
    for question in range(4):
        answers = [
            r.target_new
            for r, number in zip(made.records, made.questions, strict=True)
            if number == question
        ]
        assert len(set(answers)) == num_answers
        assert POOL[question].true_answer not in answers
        assert set(answers) <= set(CITIES)  # of the same relation while it lasts
        assert answers[-1] == POOL[question].target_new


def test_answers_are_topped_up_from_any_record_and_counted() -> None:
    # r0: target Vesper, true answer Quill; four cities are left for five places
    made = serial_records(POOL[:1], POOL, 6, seed=0)
    answers = [r.target_new for r in made.records]
    assert set(answers[:4]) == {"Orm", "Tarnhelm", "Eldwick", "Bar City"}
    assert answers[4] in RIVERS
    assert made.num_topped_up == 1


def test_too_few_answers_names_what_the_data_holds() -> None:
    # four other cities and three rivers and the target itself: eight
    with pytest.raises(ConfigError, match=r"answers_per_question is 9;.* only 8 .* for r0"):
        serial_records(POOL[:1], POOL, 9, seed=0)
    with pytest.raises(ConfigError, match=r"answers_per_question is 1; .*protocol.kind=lifelong"):
        serial_records(POOL[:1], POOL, 1, seed=0)


def test_an_answer_that_begins_another_is_never_drawn_beside_it() -> None:
    # a model that says "Bar City" also says "Bar" word for word: only one of them can be asked for
    pool = [record(0, "Bar City"), record(1, "bar"), record(2, "Orm"), record(3, "Bar City Hall")]
    made = serial_records(pool[:1], pool, 2, seed=0)
    assert [r.target_new for r in made.records] == ["Orm", "Bar City"]
    with pytest.raises(ConfigError, match="only 2 different"):
        serial_records(pool[:1], pool, 3, seed=0)


def test_without_relation_the_words_before_the_subject_stand_for_it() -> None:
    pool = [
        record(0, "1901", relation=None, prompt="In what year was person 0 born?"),
        record(1, "1902", relation=None, prompt="In what year was person 1 born?"),
        record(2, "Orm", relation=None, prompt="In what city was person 2 born?"),
        record(3, "blue", relation=None, prompt="Which colour has person 3?"),
    ]
    three = serial_records(pool[:1], pool, 3, seed=0)
    # first the same opening, then the same first two words ("In what")
    assert [r.target_new for r in three.records] == ["1902", "Orm", "1901"]
    assert three.num_topped_up == 0
    four = serial_records(pool[:1], pool, 4, seed=0)
    assert [r.target_new for r in four.records] == ["1902", "Orm", "blue", "1901"]
    assert four.num_topped_up == 1


def test_answers_depend_on_the_seed_and_not_on_the_order_of_the_data() -> None:
    first = serial_records(POOL[:4], POOL, 4, seed=0)
    assert serial_records(POOL[:4], POOL[::-1], 4, seed=0) == first
    assert serial_records(POOL[:4], POOL, 4, seed=1) != first


def test_the_protocol_of_a_table_names_the_version_of_the_generator() -> None:
    assert f"(version {serial.VERSION};" in GENERATED_ANSWERS
