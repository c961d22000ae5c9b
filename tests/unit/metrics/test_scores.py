"""Scores, by numbers that can be checked on paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from trainables.metrics import scores


def test_token_accuracy_two_of_three_right_is_two_thirds_and_not_exact() -> None:
    predicted, labels, rows = tensor([5, 6, 9]), tensor([5, 6, 7]), tensor([0, 0, 0])
    assert scores.token_accuracy(predicted, labels, rows).tolist() == [2 / 3]
    assert scores.exact_match(predicted, labels, rows).tolist() == [0.0]


def test_token_accuracy_positions_may_come_in_any_order() -> None:
    predicted, labels, rows = tensor([1, 2, 3, 4]), tensor([1, 0, 3, 4]), tensor([1, 0, 0, 1])
    # row 0: 2 v 0 wrong, 3 right: 1/2; row 1: 1 and 4 right
    assert scores.token_accuracy(predicted, labels, rows).tolist() == [0.5, 1.0]
    assert scores.exact_match(predicted, labels, rows).tolist() == [0.0, 1.0]


def test_token_accuracy_row_without_target_is_refused_rather_than_zero() -> None:
    one = tensor([1])
    with pytest.raises(ValueError, match="row 0 has nothing to score"):
        scores.token_accuracy(one, one, tensor([1]))
    with pytest.raises(ValueError, match="row 1 has nothing to score"):
        scores.token_accuracy(one, one, tensor([0]), num_rows=2)
    with pytest.raises(ValueError, match="row 2 of 2"):
        scores.token_accuracy(one, one, tensor([2]), num_rows=2)
    with pytest.raises(ValueError, match=r"must be \(M,\) each"):
        scores.token_accuracy(tensor([1, 2]), one, tensor([0]))


def test_token_accuracy_identical_outputs_are_one_even_if_wrong() -> None:
    answers = tensor([3, 3, 8])
    assert scores.token_accuracy(answers, answers.clone(), tensor([0, 0, 1])).tolist() == [1.0, 1.0]


def test_token_accuracy_one_of_four_tokens_changed_is_three_quarters() -> None:
    after, before = tensor([1, 2, 3, 9]), tensor([1, 2, 3, 4])
    assert scores.token_accuracy(after, before, tensor([0, 0, 0, 0])).tolist() == [0.75]


def test_mean_over_records_weighs_records_not_rephrases_or_tokens() -> None:
    # record 0 has three rephrases (0, 0, .75): mean .25; record 1 has one (.75): (.25 + .75) / 2
    values, records = tensor([0.0, 0.0, 0.75, 0.75]), tensor([0, 0, 0, 1])
    assert scores.mean_over_records(values, records) == 0.5
    assert scores.record_means(values, records).tolist() == [0.25, 0.75]


def test_mean_over_records_without_rows_is_missing_not_zero() -> None:
    nothing = torch.empty(0)
    assert scores.mean_over_records(nothing, nothing.long()) is None
    # a record that has no such question does not lower the mean: records 2 and 7 alone
    assert scores.mean_over_records(tensor([1.0, 0.5]), tensor([7, 2])) == 0.75
    assert scores.record_means(tensor([1.0, 0.5]), tensor([7, 2])).tolist() == [0.5, 1.0]


def test_retention_leaves_out_the_last_batch() -> None:
    reliability, batches = tensor([1.0, 0.5, 0.0, 1.0]), tensor([0, 0, 1, 2])
    # (1 + .5 + 0) / 3
    assert scores.retention(reliability, batches) == 0.5
    assert scores.retention(tensor([1.0, 0.5]), tensor([0, 0])) is None
    assert scores.retention(torch.empty(0), torch.empty(0).long()) is None
    with pytest.raises(ValueError, match="batch numbers"):
        scores.retention(reliability, batches[:3])


def test_stale_rate_counts_questions_not_answers() -> None:
    # question 0 gives two of its old answers exactly, question 1 none, question 2 one: 2 of 3
    exact, questions = [1.0, 1.0, 0.0, 0.5, 1.0], [0, 0, 1, 1, 2]
    assert scores.stale_rate(exact, questions) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="0 scores for 0"):
        scores.stale_rate([], [])


def test_own_expert_rate_counts_edits_sent_back_to_their_expert() -> None:
    # experts 0, 0, 1, 2 trained; 0, 1, 1 and none reached: 2 of 4
    assert scores.own_expert_rate(tensor([0, 0, 1, 2]), tensor([0, 1, 1, -1])) == 0.5
    assert scores.own_expert_rate(torch.empty(0), torch.empty(0)) is None
    with pytest.raises(ValueError, match="routed"):
        scores.own_expert_rate(tensor([0, 0]), tensor([[0, 0]]))


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" The Tarn.", "Tarn", 1),  # article and full stop
        ("Tarn\nNext question", "Tarn", 1),  # natural stop
        ("Tarn. It is a river", "Tarn", 1),
        ("Tarn River", "Tarn", 0),  # more than the target: length is not leaked
        ("Tar", "Tarn", 0),
        ("St. Louis", "St. Louis", 1),  # a stop inside the target does not cut
        ("St. Paul", "St. Louis", 0),
        ("St. Louis. It is a city", "St. Louis", 1),
        ("Apple Inc. of Ohio. It", "Apple Inc. of Ohio", 1),
        ("Apple Inc. of Utah. It", "Apple Inc. of Ohio", 0),
        ("U.S. It is a country", "U.S.", 1),
        ("U.S. It is a country", "U", 0),
        ("No. 5 is", "No", 1),  # the target, and then a full stop
        ("3.9 million", "3", 0),
        ("The. Tarn", "Tarn", 0),
        ("Ohio\nTarn", "Ohio Tarn", 0),  # the end of a line always ends an answer
        ("", "Tarn", 0),
        ("", "A", 0),  # normalisation leaves nothing of the target
        ("A", "A", 1),
        ("tArN", "TARN", 1),
        ("new   york", "New York", 1),
    ],
)
def test_generated_exact_match_ends_at_a_natural_stop(
    text: str, target: str, expected: int
) -> None:
    assert scores.generated_exact_match([text], [target]).tolist() == [expected]


def test_generated_exact_match_without_normalisation_minds_case_and_articles() -> None:
    texts, targets = ["the Tarn", " Tarn.", "tarn"], ["Tarn"] * 3
    plain = scores.generated_exact_match(texts, targets, normalises=False)
    assert plain.tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="shorter"):
        scores.generated_exact_match(texts, targets[:2])


@pytest.mark.parametrize("normalises", [True, False])
def test_generated_exact_match_when_an_accent_stands_behind_its_letter_then_it_is_the_same_text(
    normalises: bool,
) -> None:
    # as a tokenizer that composes letters writes the first target
    texts, targets = ["Hol\u00fd", "Holy\u0301", "Holy"], ["Holy\u0301", "Hol\u00fd", "Hol\u00fd"]
    same = scores.generated_exact_match(texts, targets, normalises=normalises)
    assert same.tolist() == [1.0, 1.0, 0.0]


def test_generated_agreement_compares_the_answers_and_not_what_follows() -> None:
    after = ["Oslo\nWho", "The Oslo.", "Bergen. A", "", "Oslo. It is"]
    before = ["Oslo\nHow", " Oslo", "Oslo. A", "", "Oslo, the capital"]
    assert scores.generated_agreement(after, before).tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]
    strict = scores.generated_agreement(after, before, normalises=False)
    assert strict.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="shorter"):
        scores.generated_agreement(after, before[:2])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("St. Louis", "St. Paul"),
        ("J. R. R. Tolkien", "J. K. Rowling"),
        ("3.2 million", "3.9 million"),
        ("Dr. Phil", "Dr. Dre"),
        ("U.S. Supreme Court", "U.S. Senate"),
        ("Émile É. Zola", "Émile É. Borel"),
    ],
)
def test_generated_agreement_when_a_full_stop_abbreviates_then_what_follows_counts(
    before: str, after: str
) -> None:
    assert scores.generated_agreement([after], [before]).tolist() == [0.0]
    assert scores.generated_agreement([f"{before}. It is"], [f"{before}\nIt"]).tolist() == [1.0]


def test_squad_normalised_drops_whole_articles_only() -> None:
    assert scores.squad_normalised("An  Anthem, the 'Theatre' (a)") == "anthem theatre"


def test_perplexity_of_a_uniform_model_is_the_vocabulary_size() -> None:
    losses = torch.full((5,), math.log(50.0))
    values = scores.perplexity(losses, tensor([0, 0, 1, 1, 1]))
    # float32 loss: relative error of the logarithm about 6e-8, times its value 3.9
    torch.testing.assert_close(values, tensor([50.0, 50.0]).double(), rtol=1e-6, atol=0)


def test_perplexity_is_the_geometric_mean_within_a_row() -> None:
    # tokens of probability 1/2 and 1/8: sqrt(2 * 8) = 4
    losses = tensor([math.log(2), math.log(8)], dtype=torch.float64)
    assert scores.perplexity(losses, tensor([0, 0])).item() == pytest.approx(4.0)
    with pytest.raises(ValueError, match="losses and rows"):
        scores.perplexity(losses, tensor([0]))


def test_perplexity_summary_shows_what_an_outlier_does() -> None:
    summary = scores.perplexity_summary(tensor([1.0, 4.0, 16.0, 1024.0]).double())
    assert summary.mean == 261.25  # 1045 / 4
    assert summary.median == 10.0  # (4 + 16) / 2
    assert summary.geometric_mean == pytest.approx(16.0)  # (2**(0+2+4+10))**(1/4) = 2**4
    assert summary.outlier_share == 0.25
    with pytest.raises(ValueError, match="no perplexities"):
        scores.perplexity_summary(torch.empty(0))
