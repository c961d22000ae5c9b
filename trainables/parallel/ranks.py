"""The processes that share one trial, and what passes between them.

Every rank runs the whole trial; only the rows of the frozen layers are divided. Two differentiable
steps suffice: `share` hands a rank its rows and, in the backward pass, gathers the gradients of all
rows; `joined` gathers all outputs and hands each rank back the gradients of its own. So every rank
holds the loss and the gradients of the whole batch, bit for bit the same ones, and no method,
optimiser or loss term needs to know.

torch.distributed is used directly: accelerate's `PartialState` is one per process for ever, and a
trial whose rank was lost has to join anew.

They exchange through gloo, on GPUs too, by copies in host memory: final states of scored tokens and
gradients at one layer, which is little beside a step. With NCCL the others of a lost rank would not
hear of it: they wait on the device until a watchdog ends their process, and a rank that runs out of
memory could not have all of them take fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd import Function

JOIN_SECONDS = 600.0  # in which all have to join, and to load their backbones
EXCHANGE_SECONDS = 60.0  # of one exchange; ranks run side by side and differ by far less


class Ranks:
    """The processes of one trial, seen from process `rank` of `size`."""

    def __init__(
        self,
        rank: int,
        size: int,
        store: dist.Store,
        timeout_seconds: float = EXCHANGE_SECONDS,
        join_seconds: float = JOIN_SECONDS,
    ) -> None:
        """Join the others; returns when all have joined.

        Args:
            rank: From 0.
            size: Processes in all.
            store: Where they meet, see `meeting_place`.
            timeout_seconds: After so long without an answer an exchange raises.
            join_seconds: The same for joining, and for `wait`.
        """
        self.rank, self.size = rank, size
        self._patience = timedelta(seconds=join_seconds)
        _import_group_holders()
        dist.init_process_group(
            "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_seconds),
        )

    def leave(self) -> None:
        """Close all connections; an exchange in which others wait then fails at once."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def wait(self) -> None:
        """Return when all ranks have come here, which may have much to load before.

        Raises:
            RuntimeError: If one does not come; on rank 0 it names which.
        """
        dist.monitored_barrier(timeout=self._patience)

    def first(self, own: Tensor) -> Tensor:
        """Rank 0's `own`: what all go by where rounding might let each decide otherwise."""
        sent = _bytes(own)
        dist.broadcast(sent, src=0)
        return _tensor(sent, own)

    def counts(self, num_rows: int) -> list[int]:
        """How many of `num_rows` each rank gets: the same number, one more for the first ranks."""
        least, more = divmod(num_rows, self.size)
        return [least + (rank < more) for rank in range(self.size)]

    def own(self, counts: Sequence[int]) -> slice:
        """The rows of this rank, where rank i has `counts[i]` of them."""
        first = sum(counts[: self.rank])
        return slice(first, first + counts[self.rank])

    def share(self, states: Tensor, counts: Sequence[int]) -> Tensor:
        """This rank's rows of `states` (B, ...), which is the same on all ranks."""
        return _Share.apply(states, self, counts)

    def joined(self, own: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all ranks in order; `counts[rank]` of them from each."""
        return _Joined.apply(own, self, counts)

    def gathered(self, own: Tensor, counts: Sequence[int]) -> Tensor:
        """As `joined`, without gradients."""
        longest = max(counts)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        sent = _bytes(padded)
        each = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(each, sent)
        parts = [_tensor(part, padded) for part in each]
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _bytes(tensor: Tensor) -> Tensor:
    """A copy in host memory, as bytes: gloo does not know every kind of number."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return copy.reshape(-1).view(torch.uint8)


def _tensor(received: Tensor, like: Tensor) -> Tensor:
    return received.view(like.dtype).reshape(like.shape).to(like.device)


def _import_group_holders() -> None:
    """Import the parts of torch whose default arguments are the group of that moment.

    Loading a backbone imports them. If a group existed by then, they would hold on to it for ever
    and `leave` would close nothing: the other ranks would wait for the whole timeout.
    """
    import torch.distributed.fsdp
    import torch.distributed.nn.functional  # noqa: F401


def meeting_place(host: str, port: int, *, is_host: bool, timeout_seconds: float) -> dist.TCPStore:
    """Where ranks find each other; whoever hosts it gives port 0 and reads `.port`."""
    return dist.TCPStore(
        host,
        port,
        is_master=is_host,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_seconds),
    )


class _Share(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, ranks: Ranks, counts: Sequence[int]) -> Tensor:
        ctx.ranks, ctx.counts = ranks, counts
        return states[ranks.own(counts)].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.ranks.gathered(gradients[0], ctx.counts), None, None


class _Joined(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, counts: Sequence[int]) -> Tensor:
        ctx.own = ranks.own(counts)
        return ranks.gathered(own, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # The loss is the same one on every rank: nothing is to be added up.
        return gradients[0][ctx.own], None, None
