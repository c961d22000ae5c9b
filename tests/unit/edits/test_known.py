"""What of a source stays when only what a backbone knows is drawn, worked out by hand."""

from __future__ import annotations

import pytest

from trainables.edits.drawing import draw
from trainables.edits.known import (
    asked_at_most,
    asked_facts,
    check_answers,
    digest,
    only_known,
    true_facts,
)
from trainables.edits.sources import Source
from trainables.errors import ConfigError, DataError
from trainables.records import EditRecord, Question
from trainables.spec import TrialSpec


def near(prompt: str, answer: str, kind: str = "locality_near") -> Question:
    return Question(prompt, answer, kind)


A1, A2 = near("near a", "one"), near("near a", "two")  # two answers that are right
B, C, FAR = near("near b", "three"), near("near c", "four"), near("far", "five", "locality_far")
RECORDS = (
    EditRecord("1", "p", "new", true_answer="x", relation="r", locality=(A1, A2, B, C, FAR)),
    EditRecord("2", "p", "new", true_answer="y", relation="r", locality=(A1, A2, B, C, FAR)),
    EditRecord("3", "q", "new", true_answer="x", relation="r", locality=(B,)),
    EditRecord("4", "s", "new", true_answer="z", relation="t", locality=(C, FAR)),
    EditRecord("5", "u", "new", locality=(FAR,)),
)
SOURCE = Source(RECORDS, (), (), "digest", part="report", most_asked=2)
KNOWN = {("p", "y"), ("s", "z"), ("near a", "two"), ("near b", "three"), ("near c", "four")}


def test_asked_facts_then_edits_with_an_answer_and_questions_each_once() -> None:
    assert true_facts(RECORDS) == (("p", "x"), ("p", "y"), ("q", "x"), ("s", "z"))
    questions = [(q.prompt, q.answer) for q in (A1, A2, B, C, FAR)]
    assert asked_facts(RECORDS) == (*true_facts(RECORDS), *questions)
    assert digest(true_facts(RECORDS)) != digest(true_facts(RECORDS)[::-1])


def test_only_known_then_edits_and_questions_that_are_known_and_how_many() -> None:
    found = only_known(SOURCE, KNOWN, "any", "tiny")
    assert [record.record_id for record in found.records] == ["2", "4"]
    assert found.records[0].locality == (A2, B)  # the first two that it knows
    assert found.records[1].locality == (C,)
    assert found.knowledge is not None
    # Different prompts with a true answer: p, q and s, of which p and s are known.
    assert (found.knowledge.num_known, found.knowledge.num_facts) == (2, 3)
    assert str(found.knowledge) == "2 of 3 facts (r 1 of 2, t 1 of 1)"
    assert found.digest == SOURCE.digest


def test_only_known_when_nothing_is_known_then_one_line_says_so() -> None:
    words = "backbone=tiny answers none of the 3 facts of dataset=any, dataset.part=report, rightly"
    with pytest.raises(DataError, match=words):
        only_known(SOURCE, {("far", "five")}, "any", "tiny")


def test_asked_at_most_then_the_first_of_each_kind_and_each_prompt_once() -> None:
    (record,) = asked_at_most(RECORDS[:1], 2)
    assert record.locality == (A1, B, FAR)
    assert asked_at_most(RECORDS, None) == RECORDS


def test_check_answers_when_no_record_has_one_then_refused() -> None:
    check_answers("any", RECORDS)
    with pytest.raises(DataError, match=r"dataset\.known_only=true: none of the 1 records"):
        check_answers("any", RECORDS[4:])


def test_draw_when_more_edits_are_asked_for_than_known_then_how_many_of_how_many() -> None:
    told = {
        "method": {"name": "no_edit", "module": "no_edit"},
        "backbone": {"name": "tiny", "model": "tiny", "dtype": "float32"},
        "dataset": {"name": "any", "part": "report", "known_only": True},
        "protocol": {"kind": "batch", "num_edits": 3, "target_ends_with_eos": True},
        "seed": 0,
    }
    spec = TrialSpec.parse(told)
    found = only_known(SOURCE, KNOWN, "any", "tiny")
    with pytest.raises(ConfigError) as caught:
        draw(spec, found)
    assert str(caught.value) == (
        "protocol.num_edits is 3; the data offers 2 different prompts, so it must lie in [1, 2]: "
        "with dataset.known_only=true the backbone knows 2 of 3 facts (r 1 of 2, t 1 of 1)"
    )
