"""The threshold between near and far: by hand, and against trying every one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.moe.thresholds import best_threshold, just_below

values = st.integers(-5, 5).map(lambda n: n / 5)
some = st.lists(values, min_size=1, max_size=6)


def test_just_below_is_a_hair_in_float32_and_a_rounding_in_bfloat16() -> None:
    assert just_below(100.0, torch.float32) == pytest.approx(99.999)
    assert just_below(128.0, torch.bfloat16) == 127.0  # 2**-7 less


def test_threshold_lies_in_the_middle_of_the_gap_that_parts_them() -> None:
    # near .9 and .8, far .2 and .1: all between .2 and .8 part them
    near, far = torch.tensor([0.9, 0.8]), torch.tensor([0.2, 0.1])
    assert best_threshold([near], [far]) == pytest.approx(0.5)


def test_kinds_count_alike_whatever_their_size() -> None:
    near = torch.tensor([0.5, 0.9])
    many, one = torch.full((50,), 0.6), torch.tensor([0.1])
    # up to .9: half of near, all of both kinds: .5 + 1; up to .5: 1 + (0 + 1) / 2. A tie, in which
    # the gap from .1 to .5 is wider than that from .6 to .9
    assert best_threshold([near], [many, one]) == pytest.approx(0.3)
    # with a second high kind, up to .5 leaves out one of three
    assert best_threshold([near], [many, many, one]) == pytest.approx(0.75)
    # near of another kind that passes up to 1: the half of a half that is lost weighs less
    assert best_threshold([near, torch.ones(1)], [many, one]) == pytest.approx(0.75)


def test_where_nothing_tells_them_apart_only_the_surely_near_pass() -> None:
    # own prompts at 1, rephrases among the far ones
    own, rephrases, far = torch.ones(3), torch.tensor([0.2, 0.4]), torch.tensor([0.3, 0.5])
    assert best_threshold([own, rephrases], [far]) == pytest.approx(0.75)


def test_without_anything_far_all_that_is_near_passes() -> None:
    assert best_threshold([torch.tensor([0.4, 0.7])], []) == pytest.approx(0.4)
    assert best_threshold([torch.tensor([0.4, 0.7])], [torch.empty(0)]) == pytest.approx(0.4)


@given(st.lists(some, min_size=1, max_size=3), st.lists(some, min_size=1, max_size=3))
def test_no_threshold_does_better(near: list[list[float]], far: list[list[float]]) -> None:
    def score(threshold: float) -> float:
        kept = [sum(each >= threshold for each in kind) / len(kind) for kind in near]
        left = [sum(each < threshold for each in kind) / len(kind) for kind in far]
        return sum(kept) / len(kept) + sum(left) / len(left)

    passing, failing = (
        [torch.tensor(kind, dtype=torch.float64) for kind in kinds] for kinds in (near, far)
    )
    found = best_threshold(passing, failing)
    every = [n / 20 - 1.3 for n in range(54)]
    assert score(found) >= max(score(threshold) for threshold in every) - 1e-9
