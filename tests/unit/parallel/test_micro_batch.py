from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trainables.parallel.micro_batch import MicroBatch
from trainables.parallel.ranks import Ranks


def test_running_names_the_rows_also_where_they_run_again_on_the_way_back() -> None:
    micro_batch, seen = MicroBatch(limit=2), []

    def noted(x: Tensor) -> Tensor:
        assert micro_batch.running is not None
        seen.append((micro_batch.running.start, x[:, 0].tolist()))
        return x * x

    x = torch.tensor([[0.0], [1.0], [2.0]], requires_grad=True)
    micro_batch.apply(noted, x).sum().backward()
    # Forward in order, then each piece once more.
    pieces = [(0, [0.0, 1.0]), (2, [2.0])]
    assert seen[:2] == pieces
    assert sorted(seen[2:]) == pieces
    assert micro_batch.running is None


def test_running_when_all_rows_run_at_once_then_none() -> None:
    micro_batch, seen = MicroBatch(limit=3), []
    micro_batch.apply(lambda x: seen.append(micro_batch.running) or x, torch.zeros(3, 1))
    assert seen == [None]


class SecondOfTwo(Ranks):
    """The second of two processes, whose first one says nothing."""

    def __init__(self) -> None:
        self.rank, self.size = 1, 2

    def share(self, states: Tensor, counts: Sequence[int]) -> Tensor:
        return states[self.own(counts)]

    def joined(self, own: Tensor, counts: Sequence[int]) -> Tensor:
        return own


@pytest.mark.parametrize(("limit", "expected"), [(None, [(3, 5)]), (1, [(3, 4), (4, 5)])])
def test_running_when_ranks_share_the_rows_then_by_their_numbers_in_the_whole_batch(
    limit: int | None, expected: list[tuple[int, int]]
) -> None:
    micro_batch, seen = MicroBatch(limit), []
    micro_batch.ranks = SecondOfTwo()

    def noted(x: Tensor) -> Tensor:
        assert micro_batch.running is not None
        seen.append((micro_batch.running.start, micro_batch.running.stop))
        return x

    rows = torch.arange(5.0)[:, None]  # of which the first three are the first one's
    found = micro_batch.apply_on_ranks(noted, [rows], [], [1] * 5)
    assert found[:, 0].tolist() == [3.0, 4.0]
    assert seen == expected
