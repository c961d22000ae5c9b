"""What a wrong answer was, on tokens and texts that can be read."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.contract.tokenizers import small
from trainables.metrics.wrong_answers import Given, WrongAnswer, given_pieces, given_text
from trainables.prompts import tokenise

PRINTED = Path(__file__).resolve().parents[3] / "analysis" / "paper_tables"
DIGITS = small.digits_singly()  # "1961" is " ", "1", "9", "6", "1"
END = DIGITS.eos_token_id


def ids(answer: str) -> tuple[int, ...]:
    return tokenise(DIGITS, "The year is", answer).target


def pieces(asked: str, said: tuple[int, ...], *old: str, before: str = "") -> Given:
    was = ids(before) if before else tuple(END for _ in said)
    return given_pieces(DIGITS, asked, ids(asked), said, was, {each: ids(each) for each in old})


def cases() -> list[tuple[str, str, str]]:
    """Asked and given answer of the papers' failure cases, and what their mark says."""
    found = []
    for table in ("lemoe_table7", "arm_table12"):
        with (PRINTED / f"{table}.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        found += [
            (row["edit_target"], row["post_edit_output"], row["outcome"])
            for row in rows
            if row["outcome"] != "exact_match" and row["edit_target"] != row["post_edit_output"]
        ]
    return found


@pytest.mark.parametrize(("asked", "given", "outcome"), cases())
def test_text_when_a_paper_prints_it_then_partly_right_where_the_paper_marks_it_so(
    asked: str, given: str, outcome: str
) -> None:
    found = given_text(given, "", asked, [])
    assert (found.begins_right or found.ends_right) == (outcome == "partial_error")


def test_the_papers_print_both_kinds_of_error() -> None:
    marks = [outcome for _, _, outcome in cases()]
    # LEMoE: 5 and 7 of 16 cases; ARM: 4 and 4 of 10
    assert (marks.count("partial_error"), marks.count("complete_error")) == (9, 11)


@pytest.mark.parametrize(
    ("text", "begins", "ends"),
    [
        ("12 July 1964", True, False),
        ("27 July 1944", False, True),
        ("12 May 1944", True, True),
        ("July", False, False),  # neither the first nor the last word
        ("", False, False),
        ("12 July 1944 in the morning", True, False),
    ],
)
def test_text_is_right_at_its_first_and_at_its_last_word(
    text: str, begins: bool, ends: bool
) -> None:
    found = given_text(text, "before", "12 July 1944", [])
    assert (found.begins_right, found.ends_right) == (begins, ends)


@pytest.mark.parametrize(
    ("text", "asked", "old", "turns_to"),
    [
        ("The Paris of old", "Lyon", ["Paris"], "Paris"),  # articles do not count
        ("paris.\nAnd more", "Lyon", ["Rome", "Paris"], "Paris"),
        ("St. Louis", "Lyon", ["St. Louis"], "St. Louis"),  # with a stop in it
        ("Parish", "Lyon", ["Paris"], None),
        ("In Paris", "Lyon", ["Paris"], None),
        ("New York", "New York City", ["New York"], "New York"),
        ("New York City Hall", "New York City", ["New York"], None),  # begins as asked
        ("Rome", "Lyon", ["?"], None),  # no word of it can be compared
    ],
)
def test_text_when_it_begins_with_an_old_answer_then_turns_to_it(
    text: str, asked: str, old: list[str], turns_to: str | None
) -> None:
    assert given_text(text, "", asked, old).old == turns_to


def test_text_is_unchanged_up_to_its_first_stop() -> None:
    found = given_text("Rome. It lies there", "rome. Elsewhere", "Lyon", [])
    assert (found.answer, found.is_unchanged) == ("Rome", True)
    assert not given_text("Rome", "Romania", "Lyon", []).is_unchanged


def test_pieces_when_right_up_to_the_fork_and_old_there_then_turn_to_it() -> None:
    # " 1961" and " 1974" part at their third digit; what follows it is of the asked answer
    assert pieces("1961", (*ids("197")[:4], ids("1961")[4]), "1974").old == "1974"
    assert pieces("1961", ids("1985"), "1974").old is None  # another digit at the fork
    assert pieces("1961", ids("2074"), "1974").old is None  # wrong before the fork
    assert pieces("1961", ids("2074"), "1974", "2003").old == "2003"  # fork at the first digit
    assert pieces("1961", ids("1974")).old is None  # none is known


def test_pieces_when_the_old_answer_is_a_beginning_then_old_where_the_answer_ends_there() -> None:
    bar, city = ids("Bar City")
    ends_there = pieces("Bar City", (bar, END), "Bar")
    assert (ends_there.old, ends_there.answer) == ("Bar", "Bar")
    assert pieces("Bar City", (bar, ids("Lumen")[0]), "Bar").old is None
    assert pieces("Bar", (city,), "Bar City").old is None  # begins as asked: cannot be told


def test_pieces_say_what_stands_before_an_end_token() -> None:
    assert pieces("1961", (END, *ids("1961")[1:])).answer == ""
    found = pieces("12 July 1944", (*ids("12 July")[:8], END, *ids("12 July 1944")[9:]))
    assert (found.answer, found.begins_right, found.ends_right) == ("12 July", True, False)


def test_pieces_are_unchanged_where_they_are_as_before_up_to_the_first_wrong_one() -> None:
    assert pieces("1961", ids("1974"), before="1974").is_unchanged
    assert pieces("1961", ids("1974"), before="1975").is_unchanged  # the third digit is wrong
    assert not pieces("1961", ids("1974"), before="1984").is_unchanged
    assert not pieces("1961", ids("1974"), before="2074").is_unchanged  # right by now up to there


def test_wrong_answer_comes_back_from_json_as_it_was() -> None:
    told = WrongAnswer("1961", None, given_text("1960", "1950", "1961", ["1950"]))
    assert WrongAnswer.from_values(json.loads(json.dumps(asdict(told)))) == told
