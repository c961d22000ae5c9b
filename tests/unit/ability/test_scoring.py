"""Scores of generated answers, worked out by hand."""

from __future__ import annotations

import pytest

from trainables.ability.scoring import entities, last_number, rouge, short_answer, tagged_entities


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (" 3 + 4 = 7. 7 * 200 = 1,400.\n#### 1,400", True),
        ("So she has 1400.0 dollars", True),
        ("1400, no: 1401", False),
        ("#### 1400 and then 12 more words", True),
        ("none", False),
        ("", False),
    ],
)
def test_last_number(text: str, is_right: bool) -> None:
    record = {"question": "?", "answer": "He has 7 * 200 = <<7*200=1400>>1400.\n#### 1,400"}
    assert last_number(record, text) == (float(is_right), 1.0)


def test_short_answer_ignores_articles_case_and_marks() -> None:
    record = {"question": "?", "answer": ["The Long Tide", "Long Tide (book)"]}
    assert short_answer(record, " the long tide.") == (1.0, 1.0)
    assert short_answer(record, "long tides") == (0.0, 1.0)
    assert short_answer({"answer": "Vesper"}, "Vesper") == (1.0, 1.0)


def test_short_answer_when_an_answer_is_all_marks_or_article_then_it_is_not_the_empty_one() -> None:
    assert short_answer({"answer": ["?", "The"]}, "") == (0.0, 1.0)
    assert short_answer({"answer": ["?", "A"]}, " A") == (1.0, 1.0)


TOKENS = ["Ada", "Quell", "left", "Bar", "City", "for", "Lumen", "Works", "."]
TAGS = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O", "B-ORG", "I-ORG", "O"]


def test_tagged_entities_joins_what_goes_on() -> None:
    assert tagged_entities(TOKENS, TAGS) == [
        ("Ada Quell", "PER"),
        ("Bar City", "LOC"),
        ("Lumen Works", "ORG"),
    ]
    # Two of a kind side by side; one that begins with I-, as the data's first form has it.
    assert tagged_entities(["A", "B", "C"], ["B-PER", "B-PER", "O"]) == [("A", "PER"), ("B", "PER")]
    assert tagged_entities(["A", "B"], ["I-LOC", "I-ORG"]) == [("A", "LOC"), ("B", "ORG")]


def test_entities_weigh_what_they_add_to_f1() -> None:
    record = {"tokens": TOKENS, "ner_tags": TAGS}
    assert entities(record, " Ada Quell (PER); Bar City (LOC); Lumen Works (ORG)") == (1.0, 6.0)
    # One of two right, of three wanted: F1 is 2 * 1 / (2 + 3).
    assert entities(record, "Ada Quell (PER); Bar City (ORG)") == (0.4, 5.0)
    assert entities(record, "none") == (0.0, 3.0)
    assert entities({"tokens": ["It"], "ner_tags": ["O"]}, "none") == (0.0, 0.0)


def test_rouge_is_the_mean_of_its_three_f_scores() -> None:
    pytest.importorskip("rouge_score", reason="comes with the extra `ability`")
    record = {"dialogue": "", "summary": "Ada goes home"}
    assert rouge(record, "Ada goes home") == (1.0, 1.0)
    # Of 3 words and 2: ROUGE-1 and -L are 2 * 2 / 5, ROUGE-2 (1 of 2, 1 of 1) is 2 / 3.
    assert rouge(record, "Ada goes")[0] == pytest.approx((0.8 + 2 / 3 + 0.8) / 3)
