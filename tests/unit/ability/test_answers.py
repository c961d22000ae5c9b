"""Scores of answers and their changes, worked out by hand."""

from __future__ import annotations

import json
import math

import pytest

from trainables.ability.answers import (
    LARGEST_LOSS,
    Answer,
    Answered,
    answered_from,
    answered_json,
    numbers,
    score,
)
from trainables.errors import ConfigError

BEFORE = (Answer("a", 1.0), Answer("b", 1.0), Answer("c", 0.0), Answer("d", 0.0))
AFTER = (Answer("a", 1.0), Answer("b", 0.0), Answer("c", 0.0), Answer("d", 0.0))
LATER = (Answer("a", 0.0), Answer("b", 0.0), Answer("c", 0.0), Answer("d", 0.0))


def test_score_is_the_weighted_mean() -> None:
    assert score(BEFORE, is_perplexity=False) == 0.5
    # Micro F1 of two sentences: 2 of 4 and 0 of 1, so 2 * 1 / 5.
    assert score([Answer("a", 0.5, 4.0), Answer("b", 0.0, 1.0)], is_perplexity=False) == 0.4


def test_score_of_losses_is_the_perplexity_over_all_tokens() -> None:
    # 2 tokens at a chance of 1/2 each and 1 at 1/16: the mean is (2 log 2 + log 16) / 3 = 2 log 2.
    answers = [Answer("a", math.log(2), 2.0), Answer("b", math.log(16), 1.0)]
    assert score(answers, is_perplexity=True) == pytest.approx(4.0)
    assert score([Answer("a", LARGEST_LOSS * 9)], is_perplexity=True) == pytest.approx(1e30)


def test_score_when_nothing_counts_then_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no question of the task"):
        score([Answer("a", 0.0, 0.0)], is_perplexity=False)


def test_numbers_are_means_over_the_batches_that_were_rolled_back() -> None:
    asked = [
        Answered("toy", False, 0, BEFORE, AFTER),
        Answered("other", False, 0, BEFORE, BEFORE),
        Answered("toy", False, 1, BEFORE, LATER),
    ]
    assert numbers(asked) == {
        "ability.toy.before": 0.5,
        "ability.toy.final": 0.125,  # of 1/4 and 0
        "ability_change.toy": -0.375,
        "ability.other.before": 0.5,
        "ability.other.final": 0.5,
        "ability_change.other": 0.0,
    }
    assert numbers([]) == {}


def test_answers_survive_a_trial_that_is_stopped_and_goes_on() -> None:
    asked = Answered("toy", True, 3, BEFORE, AFTER)
    assert answered_from(json.loads(json.dumps(answered_json(asked)))) == asked


def test_lines_pair_every_question_with_itself() -> None:
    lines = Answered("toy", False, 2, BEFORE, AFTER).lines()
    assert [(line["record_id"], line["value_before"], line["value"]) for line in lines] == [
        ("toy a", 1.0, 1.0),
        ("toy b", 1.0, 0.0),
        ("toy c", 0.0, 0.0),
        ("toy d", 0.0, 0.0),
    ]
    assert {(line["when"], line["batch"], line["score"]) for line in lines} == {
        ("ability", 2, "ability.toy")
    }
