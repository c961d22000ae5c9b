"""The threshold between near and far: by hand, and against trying every one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.moe.thresholds import best_threshold

values = st.integers(-5, 5).map(lambda n: n / 5)
some = st.lists(values, min_size=1, max_size=6)


def test_threshold_lies_in_the_middle_of_the_gap_that_parts_them() -> None:
    # near .9 and .8, far .2 and .1: all between .2 and .8 part them
    near, far = torch.tensor([0.9, 0.8]), torch.tensor([0.2, 0.1])
    assert best_threshold(near, [far]) == pytest.approx(0.5)


def test_kinds_count_alike_whatever_their_size() -> None:
    near = torch.tensor([0.5, 0.9])
    many, one = torch.full((50,), 0.6), torch.tensor([0.1])
    # at .55 to .9: half of near, all of both kinds: .5 + 1; at .1 to .5: 1 + (0 + 1) / 2. A tie in
    # which the gap (.1, .5] is wider than (.6, .9]
    assert best_threshold(near, [many, one]) == pytest.approx(0.3)
    # with a third kind as low as the second, low thresholds leave out two of three
    assert best_threshold(near, [many, one, one]) == pytest.approx(0.3)
    assert best_threshold(near, [many, many, one]) == pytest.approx(0.75)


def test_without_anything_far_all_that_is_near_passes() -> None:
    assert best_threshold(torch.tensor([0.4, 0.7]), []) == pytest.approx(0.4)
    assert best_threshold(torch.tensor([0.4, 0.7]), [torch.empty(0)]) == pytest.approx(0.4)


@given(some, st.lists(some, min_size=1, max_size=3))
def test_no_threshold_does_better(near: list[float], far: list[list[float]]) -> None:
    def score(threshold: float) -> float:
        kept = sum(each >= threshold for each in near) / len(near)
        left = [sum(each < threshold for each in kind) / len(kind) for kind in far]
        return kept + sum(left) / len(left)

    tensors = [torch.tensor(kind, dtype=torch.float64) for kind in far]
    found = best_threshold(torch.tensor(near, dtype=torch.float64), tensors)
    every = [n / 20 - 1.3 for n in range(54)]
    assert score(found) >= max(score(threshold) for threshold in every) - 1e-9
