import torch
from torch import Tensor

from trainables.parallel.micro_batch import MicroBatch


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
