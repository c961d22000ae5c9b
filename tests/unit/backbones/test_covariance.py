"""Second moments: what they are made of, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.backbones.hidden_states.covariance import (
    check_second_moment,
    different_passages,
    kept_passages,
    passage_batches,
    second_moments,
    solved,
    watched_keys,
)
from trainables.errors import DataError, EditDiverged
from trainables.interfaces import Backbone
from trainables.prompts import collate, tokenise

TEXTS = ("Ada Quell works for Lumen Works", "Who wrote it?", "The capital of Fooland is Bar City.")


def test_second_moments_then_as_row_by_row_without_padding(backbone: Backbone) -> None:
    seen: dict[int, list[torch.Tensor]] = {0: [], 2: []}
    with torch.no_grad(), watched_keys(backbone, [0, 2], lambda at, k: seen[at].append(k[0])):
        for text in TEXTS:
            backbone.model(torch.tensor([backbone.tokenizer(text)["input_ids"]]))
    rows = [tokenise(backbone.tokenizer, text) for text in TEXTS]
    batches = [
        collate(rows[:2], pad_id=0, padding_side="left"),
        collate(rows[2:], pad_id=0),
    ]
    moments = second_moments(backbone, [0, 2], batches)
    for layer, keys in seen.items():
        tokens = torch.cat(keys).double()
        expected = (tokens.T @ tokens / len(tokens)).float()
        torch.testing.assert_close(moments[layer], expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(moments[layer], moments[layer].T)
        assert float(torch.linalg.eigvalsh(moments[layer].double())[0]) > -1e-6


def test_second_moments_when_there_is_no_token_then_says_so(llama: Backbone) -> None:
    with pytest.raises(ValueError, match="no token"):
        second_moments(llama, [0], [])


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[1.0, 0.5], [0.0, 1.0]], "not symmetric"),
        ([[0.0, 2.0], [2.0, 0.0]], "eigenvalue -2"),  # eigenvalues -2 and 2
        ([[float("nan"), 0.0], [0.0, 1.0]], "not finite"),
    ],
)
def test_check_second_moment_when_it_cannot_be_one_then_says_why(
    matrix: list[list[float]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check_second_moment(3, torch.tensor(matrix))


def test_kept_passages_then_file_before_checkpoint(llama: Backbone, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one\n\n two \none\n")
    bare = replace(llama, folder=tmp_path)
    assert kept_passages(None, bare) is None
    assert kept_passages(None, replace(llama, folder=None)) is None
    (tmp_path / "training_text.txt").write_text("three")
    assert kept_passages(None, bare) == ("checkpoint", ["three"])
    found = kept_passages(str(text), bare)
    assert found is not None
    assert (found[0], set(found[1])) == ("file", {"one", "two"})


def test_kept_passages_when_the_file_is_empty_then_names_it(
    llama: Backbone, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n \n")
    with pytest.raises(DataError, match=r"method.covariance_text is .*text.txt', which holds no"):
        kept_passages(str(text), llama)


@given(st.permutations(["a", "b", "c", "d", "e"]))
def test_different_passages_then_do_not_depend_on_the_order(order: list[str]) -> None:
    assert different_passages([*order, " a", ""]) == different_passages(sorted(order))


def test_passage_batches_then_exactly_so_many_tokens_longest_first(llama: Backbone) -> None:
    lengths = [len(tokenise(llama.tokenizer, text).ids) for text in TEXTS]
    wanted = sum(lengths) - 3  # the last passage loses three
    batches = list(passage_batches(llama, TEXTS, wanted))
    masks = [row.sum() for batch in batches for row in batch.attention_mask]
    assert [int(n) for n in masks] == sorted([*lengths[:2], lengths[2] - 3], reverse=True)
    # 64 positions are what the tiny backbone has
    [long] = passage_batches(llama, ["Ada " * 200], 1000)
    assert long.input_ids.shape == (1, 64)


def test_solved_then_with_the_weight_on_the_diagonal() -> None:
    system = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    # (3 1; 1 3) x = (5, 7): x = (1, 2)
    found = solved(system, torch.tensor([[5.0], [7.0]]).double(), 1.0)
    torch.testing.assert_close(found, torch.tensor([[1.0], [2.0]]).double())


@pytest.mark.parametrize("entry", [float("nan"), float("inf"), 1e20])
def test_solved_when_there_is_no_factor_then_diverged(entry: float) -> None:
    system = torch.full((2, 2), entry, dtype=torch.float64)  # 1 is lost beside 1e20
    with pytest.raises(EditDiverged, match=r"no solution: .* method.l2_weight=1"):
        solved(system, torch.ones(2, 1, dtype=torch.float64), 1.0)
