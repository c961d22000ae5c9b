"""Every score against its slow reference, over shapes and dtypes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from trainables.metrics import scores

from . import reference_metrics as reference

LENGTHS = [(1,), (3, 1, 2), (4, 4, 1, 2, 7, 3)]
VOCABULARIES = [2, 5]  # small, so that right and wrong tokens both occur
DTYPES = [torch.float32, torch.bfloat16, torch.float64]

pytestmark = [
    pytest.mark.parametrize("lengths", LENGTHS),
    pytest.mark.parametrize("vocabulary", VOCABULARIES),
    pytest.mark.parametrize("dtype", DTYPES),
]


@dataclass(frozen=True)
class Case:
    """Scored positions of a batch, and the same as nested lists for the reference."""

    after: Tensor
    before: Tensor
    labels: Tensor
    rows: Tensor

    def per_row(self, values: Tensor) -> list[list]:
        num_rows = int(self.rows.max()) + 1
        return [values[self.rows == row].tolist() for row in range(num_rows)]


def make_case(lengths: tuple[int, ...], vocabulary: int, dtype: torch.dtype) -> Case:
    generator = torch.Generator().manual_seed(sum(lengths) * 10 + vocabulary)
    total = sum(lengths)
    before = torch.randn(total, vocabulary, generator=generator)
    # half of the positions keep what they had, so that locality lies between 0 and 1
    keeps = torch.rand(total, 1, generator=generator) < 0.5
    after = torch.where(keeps, before, torch.randn(total, vocabulary, generator=generator))
    labels = torch.randint(vocabulary, (total,), generator=generator)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return Case(after.to(dtype), before.to(dtype), labels, rows)


def test_token_accuracy_and_exact_match_equal_equations_4_and_5(
    lengths: tuple[int, ...], vocabulary: int, dtype: torch.dtype
) -> None:
    case = make_case(lengths, vocabulary, dtype)
    pairs = list(zip(case.per_row(case.after), case.per_row(case.labels), strict=True))
    arguments = (case.after.argmax(-1), case.labels, case.rows)
    tokens = [reference.answer_tokens(*pair) for pair in pairs]
    exact = [reference.whole_answer(*pair) for pair in pairs]
    assert scores.token_accuracy(*arguments).tolist() == pytest.approx(tokens, abs=1e-15)
    assert scores.exact_match(*arguments).tolist() == exact


def test_token_accuracy_against_pristine_answers_equals_equation_6(
    lengths: tuple[int, ...], vocabulary: int, dtype: torch.dtype
) -> None:
    case = make_case(lengths, vocabulary, dtype)
    pairs = list(zip(case.per_row(case.after), case.per_row(case.before), strict=True))
    arguments = (case.after.argmax(-1), case.before.argmax(-1), case.rows)
    tokens = [reference.unaltered_tokens(*pair) for pair in pairs]
    whole = [reference.unaltered(*pair) for pair in pairs]
    assert scores.token_accuracy(*arguments).tolist() == pytest.approx(tokens, abs=1e-15)
    assert scores.exact_match(*arguments).tolist() == whole


def test_mean_over_records_and_retention_equal_the_expectation(
    lengths: tuple[int, ...], vocabulary: int, dtype: torch.dtype
) -> None:
    case = make_case(lengths, vocabulary, dtype)
    # here a "row" plays the record, and its positions the rephrases
    values = case.after[:, 0].double()
    nested = [*case.per_row(values), []]
    mean = scores.mean_over_records(values, case.rows)
    assert mean == pytest.approx(reference.expectation(nested), rel=1e-12)
    if len(lengths) > 1:
        kept = scores.retention(values, case.rows)
        assert kept == pytest.approx(
            reference.retention(values.tolist(), case.rows.tolist()), rel=1e-12
        )


def test_perplexity_equals_the_exponential_of_the_mean_loss(
    lengths: tuple[int, ...], vocabulary: int, dtype: torch.dtype
) -> None:
    case = make_case(lengths, vocabulary, dtype)
    losses = torch.nn.functional.cross_entropy(case.after.double(), case.labels, reduction="none")
    pairs = zip(case.per_row(case.after.double()), case.per_row(case.labels), strict=True)
    expected = [reference.perplexity(*pair) for pair in pairs]
    assert scores.perplexity(losses, case.rows).tolist() == pytest.approx(expected, rel=1e-12)


def test_own_expert_rate_equals_the_weighted_diagonal(
    lengths: tuple[int, ...], vocabulary: int, dtype: torch.dtype
) -> None:
    case = make_case(lengths, vocabulary, dtype)
    routed = case.after.argmax(-1)
    expected = reference.own_expert_rate(case.labels.tolist(), routed.tolist())
    assert scores.own_expert_rate(case.labels, routed) == pytest.approx(expected, rel=1e-12)
