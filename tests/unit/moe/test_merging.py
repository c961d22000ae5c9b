"""Mergers of weight deltas, by hand and by property."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.moe.merging import (
    Compression,
    Merging,
    compressed,
    elected_sign,
    emr,
    linear,
    merged,
    sign,
    slerp,
    ties,
    trimmed,
)

# Eighths, in twos and fours: sums and means are exact, so that what cancels does so in any order.
ENTRIES = st.integers(-40, 40).map(lambda n: n / 8)
ROWS = st.lists(ENTRIES, min_size=4, max_size=4)
DELTAS = st.sampled_from((2, 4)).flatmap(lambda n: st.lists(ROWS, min_size=n, max_size=n))


def tensors(rows: list[list[float]]) -> list[torch.Tensor]:
    return [torch.tensor(row) for row in rows]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("rule", get_args(Merging))
def test_merging_when_there_is_one_delta_then_it_comes_back(rule: Merging) -> None:
    delta = torch.tensor([1.0, -2.0, 0.0])
    assert torch.equal(merged([delta], rule, density=0.5, generator=generator()), delta)
    restored, _ = compressed([delta], "emr", density=0.5, generator=generator())
    assert torch.equal(restored[0], delta)


def test_trimmed_then_the_largest_magnitudes_are_left() -> None:
    assert trimmed(torch.tensor([1.0, -4.0, 2.0, 3.0]), 0.5).tolist() == [0.0, -4.0, 0.0, 3.0]


def test_elected_sign_when_entries_cancel_then_the_majority_decides() -> None:
    # sums 3, 0 and 2: two entries positive, so the one that cancels counts as positive
    weighted = torch.tensor([[1.0, 1.0, 3.0], [2.0, -1.0, -1.0]])
    assert elected_sign(weighted).tolist() == [1.0, 1.0, 1.0]


def test_ties_then_only_agreeing_entries_are_averaged() -> None:
    deltas = tensors([[4.0, -1.0, 0.1], [2.0, 3.0, 0.2]])
    # kept: [4, -1, 0] and [2, 3, 0]; signs +, +, none; means (4 + 2) / 2 and 3 alone
    assert ties(deltas, 2 / 3).tolist() == [3.0, 3.0, 0.0]
    # with shares .9 and .1 the second entry is -.9 + .3 < 0; the first is .9 * 4 + .1 * 2
    assert ties(deltas, 2 / 3, [0.9, 0.1]).tolist() == pytest.approx([3.8, -1.0, 0.0])


def test_slerp_of_orthogonal_deltas_then_their_length_is_kept() -> None:
    found = slerp(tensors([[2.0, 0.0], [0.0, 2.0]]))
    # half way: sin(45) / sin(90) = .7071 of each
    assert found.tolist() == pytest.approx([2**0.5, 2**0.5])
    assert float(found.norm()) == pytest.approx(2.0)


def test_slerp_when_parallel_or_zero_then_linear() -> None:
    for rows in ([[1.0, 2.0], [2.0, 4.0]], [[0.0, 0.0], [2.0, 4.0]]):
        deltas = tensors(rows)
        torch.testing.assert_close(slerp(deltas), linear(deltas))


def test_emr_then_signs_masks_and_scales_by_hand() -> None:
    together = emr(tensors([[4.0, -1.0, 0.0], [2.0, 3.0, 0.0]]))
    # sums 6, 2, 0; largest with that sign 4 and 3
    assert together.unified.tolist() == [4.0, 3.0, 0.0]
    assert together.masks.tolist() == [[True, False, False], [True, True, False]]
    # (4 + 1) / 4 and (2 + 3) / (4 + 3)
    assert together.scales.tolist() == pytest.approx([1.25, 5 / 7])
    assert together.restored(1).tolist() == pytest.approx([20 / 7, 15 / 7, 0.0])
    assert together.num_bytes == 3 * 4 + 1 + 2 * 4  # six mask bits fit in one byte


def test_emr_when_a_delta_is_zero_then_it_stays_zero() -> None:
    together = emr(tensors([[0.0, 0.0], [1.0, -2.0]]))
    assert together.restored(0).tolist() == [0.0, 0.0]
    assert together.restored(1).tolist() == [1.0, -2.0]


@settings(max_examples=60, deadline=None)
@given(DELTAS)
def test_emr_then_each_restored_delta_keeps_its_mean_magnitude(rows: list[list[float]]) -> None:
    deltas, together = tensors(rows), emr(tensors(rows))
    for index, delta in enumerate(deltas):
        if together.masks[index].any():
            total = float(together.restored(index).abs().sum())
            assert total == pytest.approx(float(delta.abs().sum()), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(DELTAS)
def test_merging_when_the_deltas_change_places_then_nothing_changes(
    rows: list[list[float]],
) -> None:
    deltas = tensors(rows)
    for rule in (linear, sign):
        torch.testing.assert_close(rule(deltas), rule(deltas[::-1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(emr(deltas).unified, emr(deltas[::-1]).unified)


def test_dare_ties_then_the_mean_survives_the_drop() -> None:
    delta = torch.ones(20_000)
    found = merged([delta, delta], "dare_ties", density=0.5, generator=generator())
    # kept by either with chance .75, and then 1 / .5; standard error 2 * sqrt(.1875 / 20000) = .006
    assert float(found.mean()) == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize("rule", get_args(Compression))
def test_compressed_then_bytes_are_those_of_what_is_stored(rule: Compression) -> None:
    deltas = [torch.randn(4, 4, generator=generator()) for _ in range(3)]
    restored, num_bytes = compressed(deltas, rule, density=0.5, generator=generator())
    assert len(restored) == 3
    # three matrices of 64 bytes; one with 48 mask bits and three floats; or one
    assert num_bytes == {"none": 3 * 64, "emr": 64 + 6 + 12}.get(rule, 64)


def test_compressed_then_experts_without_an_edit_take_no_part() -> None:
    deltas = tensors([[0.0, 0.0], [2.0, 4.0], [4.0, 0.0]])
    (one, *_), _ = compressed(deltas, "linear", density=0.5, generator=generator())
    assert one.tolist() == [3.0, 2.0]


@pytest.mark.parametrize("density", [0.0, 1.5])
def test_density_when_out_of_range_then_it_is_named(density: float) -> None:
    with pytest.raises(ValueError, match="density is"):
        trimmed(torch.ones(3), density)


def test_weights_when_they_do_not_fit_then_they_are_named() -> None:
    with pytest.raises(ValueError, match="2 deltas need as many weights"):
        linear(tensors([[1.0], [2.0]]), [1.0])
