"""What may be trained on: nothing that is scored, and something else of its kind for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainables.draws.training import (
    MOST_UNRELATED,
    asks_alike,
    learned_and_held_out,
    scored_prompts,
    training_records,
    unscored_questions,
)
from trainables.errors import DataError
from trainables.records import Edit, EditRecord, Question, TrainingRecord

FAR = Question("Who wrote it?", "Ada", "locality_far")
POOL = (FAR, Question("Who sang it?", "Ivo", "locality_far"))


def record(subject: str, relation: str = "capital", *asked: Question) -> EditRecord:
    """A record about `subject` with one rephrase."""
    return EditRecord(
        record_id=f"{subject}/{relation}",
        prompt=f"The {relation} of {subject} is",
        target_new="Rome",
        subject=subject,
        rephrases=(f"{subject}: its {relation} is",),
        locality=asked,
        true_answer=f"{subject}'s {relation}",
        relation=relation,
    )


def test_training_records_when_nothing_is_scored_then_a_record_keeps_its_own() -> None:
    (made,) = training_records([record("Oslo", "capital", FAR)], (), POOL, ("shown",))
    assert made == TrainingRecord(
        Edit("The capital of Oslo is", "Rome", "Oslo", ("shown",), "Oslo's capital"),
        ("Oslo: its capital is",),
        (FAR,),
    )


def test_training_records_when_a_prompt_is_scored_then_it_is_nowhere() -> None:
    some = [record("Oslo", "capital", FAR), record("Bonn"), record("Kiel")]
    scored = {"The capital of Bonn is", "Kiel: its capital is", FAR.prompt}
    first, second = training_records(some, scored, POOL)
    assert [first.edit.subject, second.edit.subject] == ["Oslo", "Kiel"]
    assert second.rephrases == ()
    assert first.unrelated == POOL[1:]  # of the same kind
    assert second.unrelated == POOL[1:]  # it had none of its own


def test_training_records_when_near_and_same_are_scored_then_others_stand_for_them() -> None:
    near = Question("The capital of Ulm is", "Ulm's", "locality_near")
    same = Question("The river of Oslo is", "the Alna", "locality_same")
    some = [record("Oslo", "capital", near, same), record("Bonn"), record("Oslo", "mayor")]
    made = training_records(some, {near.prompt, same.prompt})[0]
    assert made.unrelated == (
        Question("The capital of Bonn is", "Bonn's capital", "locality_near"),
        Question("The mayor of Oslo is", "Oslo's mayor", "locality_same"),
    )
    # One whose true answer is unknown can ask nothing.
    unknown = [some[0], *(replace(each, true_answer=None) for each in some[1:])]
    assert training_records(unknown, {near.prompt, same.prompt})[0].unrelated == ()


def test_training_records_when_there_is_much_to_ask_then_some_of_it_is_each_once() -> None:
    many = [Question(f"q{n % 20}", "a", "locality_far") for n in range(40)]
    made = [each.unrelated for each in training_records([record("A"), record("B")], (), many)]
    for questions in made:
        assert len({question.prompt for question in questions}) == len(questions) == MOST_UNRELATED
    assert made[0] != made[1]


def test_scored_prompts_are_all_that_a_record_is_asked() -> None:
    asked = replace(record("A", "mayor", FAR), portability=(Question("p", "a", "portability"),))
    assert scored_prompts([asked]) == {
        "The mayor of A is",
        "A: its mayor is",
        FAR.prompt,
        "p",
    }


def test_unscored_questions_are_those_of_others_alone() -> None:
    first, second = record("A", "mayor", *POOL), record("B", "mayor", FAR)
    assert unscored_questions([first, second], [second], 9) == POOL[1:]
    assert unscored_questions([first, second], [], 1) == POOL[:1]
    clash = Question(second.prompt, "a", "locality_near")  # an edit of B
    assert unscored_questions([record("A", "mayor", clash), second], [second], 9) == ()


@pytest.mark.parametrize(
    ("others", "is_alike"),
    [
        ((record("A", "mayor", FAR), record("B", "mayor", FAR)), False),  # questions are shared
        ((record("A", "mayor", Question("The mayor of B is", "x", "locality_near")),), True),
        ((replace(record("A"), rephrases=("The mayor of B is",)),), True),
        ((replace(record("A"), prompt="The mayor of B is"),), True),
    ],
)
def test_asks_alike_says_whether_an_edit_is_another_ones_question(
    others: tuple[EditRecord, ...], is_alike: bool
) -> None:
    assert asks_alike([*others, record("B", "mayor")]) is is_alike


def test_learned_and_held_out_share_no_subject_and_keep_their_order() -> None:
    some = [TrainingRecord(Edit(f"{word} {n}", "x", f"S{n}")) for n in range(9) for word in "ab"]
    learned, held_out = learned_and_held_out(some, 0.3, 100, 2, "m")
    assert len(held_out) == 6  # .3 of 18 is 5, and a subject stays whole
    assert {r.edit.subject for r in learned}.isdisjoint(r.edit.subject for r in held_out)
    assert [r for r in some if r in learned] == learned
    assert [r for r in some if r in held_out] == held_out
    assert len(learned_and_held_out(some, 0.3, 1, 2, "m")[1]) == 2
    assert len(learned_and_held_out(some, 0.0, 9, 2, "m")[1]) == 2  # at least one


@pytest.mark.parametrize(("count", "per_step"), [(0, 1), (1, 1), (4, 4)])
def test_learned_and_held_out_when_too_few_then_says_how_many(count: int, per_step: int) -> None:
    some = [TrainingRecord(Edit(f"p{n}", "x")) for n in range(count)]
    words = f"method m trains .* there are {count}, of which .* a step takes {per_step}; "
    with pytest.raises(DataError, match=words):
        learned_and_held_out(some, 0.1, 9, per_step, "m")
