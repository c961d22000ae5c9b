from pathlib import Path

import nltk
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader

from trainables.errors import ConfigError
from trainables.moe.frequency import (
    Meteor,
    balanced_clusters,
    divide,
    floored,
    gece,
    gradient_products,
    mean_gradient,
    mean_word_frequency,
    means_by_expert,
    scaled,
    shuffled_scores,
    word_counts,
)

SCORES = st.lists(st.floats(0, 1000), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Oslo", "Oslo", 1.0),
        ("oslo!", "Oslo", 1.0),  # case and punctuation do not count
        ("Bay Oslo", "Oslo Bay", 1.0),  # nor does the order, without a penalty
        ("works", "work", 1.0),  # the stem stage
        ("Hol\u00fd", "Holy\u0301", 1.0),  # an accent in its letter or behind it
        ("Oslo Bay", "Oslo", 0.5 / 0.55),  # P = 1/2, R = 1: P R / (.9 P + .1 R)
        ("Oslo", "Oslo Bay", 0.5 / 0.95),  # P = 1, R = 1/2
        ("", "Oslo", 0.0),
        ("Vesper", "Oslo", 0.0),
    ],
)
def test_meteor_without_a_penalty_is_the_weighted_harmonic_mean(
    prediction: str, reference: str, expected: float
) -> None:
    assert Meteor(0.0, "none")(prediction, reference) == pytest.approx(expected)


def test_meteor_with_nltk_s_penalty_halves_a_right_answer_of_one_word() -> None:
    # one match in one chunk: 1 - .5 * (1 / 1)^3
    assert Meteor(0.5, "none")("Oslo", "Oslo") == pytest.approx(0.5)


def fresh_wordnet() -> LazyCorpusLoader:
    """As NLTK makes it; the shared one may have been loaded already."""
    return LazyCorpusLoader("wordnet", WordNetCorpusReader, None)


@pytest.mark.slow  # reading WordNet takes seconds
@pytest.mark.filterwarnings("ignore:The multilingual functions")
def test_meteor_when_wordnet_is_there_then_synonyms_match(
    editing_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(editing_data / "nltk_data")])
    monkeypatch.setattr(nltk.corpus, "wordnet", fresh_wordnet())
    assert Meteor(0.0, "wordnet")("car", "auto") == 1.0
    assert Meteor(0.0, "none")("car", "auto") == 0.0


def test_meteor_when_wordnet_is_missing_then_the_key_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk.corpus, "wordnet", fresh_wordnet())
    with pytest.raises(ConfigError, match=r"method\.meteor_synonyms is 'wordnet'.*none"):
        Meteor(0.0, "wordnet")


def test_mean_word_frequency_counts_every_word_once_more() -> None:
    counts = word_counts(["Oslo Bay, Oslo", "Vesper"])  # oslo 2, bay 1, vesper 1
    # 4 words + 3 different + 1: (2 + 1)/8 for oslo, (0 + 1)/8 for a word that is not there
    assert mean_word_frequency("OSLO lumen", counts) == pytest.approx((3 / 8 + 1 / 8) / 2)
    assert mean_word_frequency("?!", counts) is None


def test_gradient_products_equal_those_of_whole_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas, keys = torch.randn(9, 4, generator=generator), torch.randn(9, 6, generator=generator)
    owner = torch.tensor([0, 0, 2, 1, 1, 1, 2, 3, 3])
    whole = torch.stack([deltas[owner == i].T @ keys[owner == i] for i in range(4)])
    expected = (whole * whole.mean(0)).sum((1, 2)).double()
    for cuts in ([9], [4, 3, 2]):  # held at once, or in parts
        parts = list(zip(*(each.split(cuts) for each in (deltas, keys, owner)), strict=True))
        found = gradient_products(parts, 4, mean_gradient(parts, 4))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_floored_lifts_small_and_negative_products_to_the_quantile() -> None:
    products = torch.tensor([-2.0, 0.0, 1.0, *[2.0] * 18], dtype=torch.float64)
    # 21 absolute values: the 5 % quantile is the second smallest, 1
    assert floored(products).tolist() == [1.0, 1.0, 1.0, *[2.0] * 18]


@pytest.mark.parametrize(
    ("denominator", "expected"),
    [
        ("none", [0.5 / 2, 0.25 / 4]),
        ("printed", [0.5 / (2 * -1), 0.25 / (4 * 0.5)]),
        ("absolute", [0.5 / (2 * 1), 0.25 / (4 * 0.5)]),
        # the quantile of (.5, 1) at 5 % is .525
        ("gradient", [0.5 / (2 * 0.525), 0.25 / (4 * 0.525)]),
    ],
)
def test_gece_by_denominator(denominator: str, expected: list[float]) -> None:
    meteor, confidence = torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.75])
    alpha, products = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 0.5])
    actual = gece(meteor, confidence, alpha, products, denominator)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_scaled_by_scale() -> None:
    scores = torch.tensor([0.0, 1.0, 100.0, 10.0])
    assert scaled(scores, "raw").tolist() == [0.0, 0.01, 1.0, 0.1]
    # log10 of (1, 1, 100, 10) = 0, 0, 2, 1: the zero counts as the smallest positive score
    assert scaled(scores, "log").tolist() == pytest.approx([0.0, 0.0, 1.0, 0.5])
    # ranks 0, 1.5, 3, 1.5
    tied = torch.tensor([0.0, 5.0, 9.0, 5.0])
    assert scaled(tied, "rank").tolist() == [0.0, 0.5, 1.0, 0.5]


@pytest.mark.parametrize("scale", ["raw", "log", "rank"])
def test_scaled_when_all_are_equal_then_is_in_the_middle(scale: str) -> None:
    assert scaled(torch.tensor([7.0, 7.0]), scale).tolist() == [0.5, 0.5]  # type: ignore[arg-type]
    assert scaled(torch.tensor([0.0]), scale).tolist() == [0.5]  # type: ignore[arg-type]


def test_scaled_when_a_score_is_negative_then_it_has_no_logarithm() -> None:
    with pytest.raises(ValueError, match="no logarithm"):
        scaled(torch.tensor([1.0, -1.0]), "log")


def test_divide_when_values_spread_evenly_then_each_expert_gets_as_many() -> None:
    scores = torch.linspace(0, 1, 30)
    labels = divide(scores, 5, head_share=0.2, balance_weight=1.0)
    assert labels == [expert for expert in range(5) for _ in range(6)]


def test_divide_when_raw_scores_spread_over_decades_then_balance_is_lost() -> None:
    scores = torch.tensor([1.0, 1.0, 2.0, 3.0, 1000.0, 4.0])
    # head: floor(.4 * 6) = 2; of 2, 3, 4 and 1000 any even cut costs over 400,000, uneven: 2 + 2
    assert divide(scores, 3, head_share=0.4, balance_weight=1.0) == [0, 0, 1, 1, 2, 1]
    # their ranks: 2, 3 | 4, 1000
    ranks = scaled(scores, "rank")
    assert divide(ranks, 3, head_share=0.4, balance_weight=1.0) == [0, 0, 1, 1, 2, 2]


def test_divide_when_edits_are_fewer_than_experts_then_the_last_experts_get_none() -> None:
    assert divide(torch.tensor([3.0]), 5, head_share=0.2, balance_weight=1.0) == [1]
    scores = torch.tensor([2.0, 1.0, 3.0])
    assert divide(scores, 5, head_share=0.2, balance_weight=1.0) == [2, 1, 3]
    assert divide(scores, 1, head_share=0.2, balance_weight=1.0) == [0, 0, 0]


def test_divide_when_the_share_times_edits_rounds_below_an_integer_then_it_counts() -> None:
    # .29 * 100 = 28.999999999999996
    labels = divide(torch.arange(100.0), 2, head_share=0.29, balance_weight=1.0)
    assert labels.count(0) == 29


@given(SCORES, st.integers(1, 5), st.floats(0, 1), st.floats(0, 3))
def test_divide_when_scores_rise_then_experts_do(
    scores: list[float], experts: int, share: float, weight: float
) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    labels = divide(values, experts, head_share=share, balance_weight=weight)
    ordered = [labels[i] for i in sorted(range(len(scores)), key=lambda i: scores[i])]
    assert ordered == sorted(ordered)
    assert 0 <= min(labels) <= max(labels) < experts


@given(SCORES, st.integers(1, 5), st.floats(0, 3))
def test_balanced_clusters_share_all_values_and_leave_none_empty(
    values: list[float], clusters: int, weight: float
) -> None:
    sizes = balanced_clusters(np.sort(np.array(values)), clusters, weight)
    assert sum(sizes) == len(values)
    assert len(sizes) == min(clusters, len(values))
    assert min(sizes) >= 1


def test_balanced_clusters_when_balance_weighs_nothing_then_gaps_decide() -> None:
    values = np.array([0.0, 0.1, 0.2, 0.3, 9.0])
    assert balanced_clusters(values, 2, 0.0) == [4, 1]
    # sizes 3 and 2 instead of 4 and 1 save lambda * (3 - 1) and cost 37.8 in squares
    assert balanced_clusters(values, 2, 15.0) == [4, 1]
    assert balanced_clusters(values, 2, 25.0) == [3, 2]


def test_shuffled_scores_are_a_permutation_that_the_generator_decides() -> None:
    first = shuffled_scores(5, torch.Generator().manual_seed(1))
    assert sorted(first.tolist()) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert torch.equal(first, shuffled_scores(5, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, shuffled_scores(5, torch.Generator().manual_seed(2)))


def test_means_by_expert_leave_out_experts_without_edits() -> None:
    assert means_by_expert([1.0, 2.0, 4.0], [3, 0, 3]) == {0: 2.0, 3: 2.5}
