"""Bypass around one FFN: frozen output + bypass_weight * gated sum of experts.

Source: LEMoE (arXiv:2406.20030v1), Eq. 9 and 12: h(x) = W_0 x + lambda sum_i g(i|x) f_i(x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.interfaces import State
from trainables.moe.experts import Bank

Route = Tensor | Callable[[Tensor], Tensor]  # gates, or what makes them of the FFN's input


class Adaptor(nn.Module):
    """Stands at the FFN's path; holds the frozen FFN and the banks that edit batches added.

    Experts are numbered in the order in which they were added, over all banks.
    """

    def __init__(self, frozen: nn.Module, bypass_weight: float) -> None:
        """Wrap `frozen`; without experts its output passes unchanged, bit for bit."""
        super().__init__()
        self.frozen = frozen
        self._banks = nn.ModuleList()
        self.bypass_weight = bypass_weight
        self._route: Route | None = None
        self.train(frozen.training)

    @property
    def num_experts(self) -> int:
        """Experts in all banks."""
        return sum(bank.num_experts for bank in self.banks)

    @property
    def banks(self) -> Sequence[Bank]:
        """The banks, oldest first."""
        return list(self._banks)  # type: ignore[arg-type]

    def add_bank(self, bank: Bank) -> int:
        """Add trainable experts; returns the number of the first one."""
        first = self.num_experts
        self._banks.append(bank.train(self.training))
        return first

    def freeze_banks(self) -> None:
        """Freeze every expert and drop its gradient."""
        for parameter in self._banks.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def thaw_banks(self) -> None:
        """Train every expert again."""
        self._banks.requires_grad_(True)

    def state(self) -> State:
        """Weights and sizes of all banks."""
        return State(
            dict(self._banks.state_dict()),
            {"bank_sizes": [bank.num_experts for bank in self.banks]},
        )

    def load(self, state: State, make_bank: Callable[[int], Bank]) -> None:
        """Take the banks of `state` in place of none; `make_bank(num_experts)` builds each.

        The newest bank is left trainable: whoever loads knows whether its batch is under way.
        """
        sizes: list[int] = state.values["bank_sizes"]  # type: ignore[assignment]
        for size in sizes:
            self.freeze_banks()
            self.add_bank(make_bank(size))
        self._banks.load_state_dict(state.tensors)

    @contextmanager
    def routed(self, route: Route) -> Iterator[None]:
        """Forward passes inside the block use `route`.

        Args:
            route: Gates over all experts, (B, E) for a route per prompt or (B, T, E) per token, or
                a function of the FFN's input (B, T, D) that returns them.
        """
        outer, self._route = self._route, route
        try:
            yield
        finally:
            self._route = outer

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """FFN output (B, T, D) with the experts' share.

        Further arguments go to the frozen FFN (some families hand it the residual stream).

        Raises:
            RuntimeError: If there are experts but no route: the model was called past its method.
        """
        output: Tensor = self.frozen(x, *args, **kwargs)
        if not self._banks:
            return output
        if self._route is None:
            raise RuntimeError(
                "the backbone was called past the edit method that is attached to it"
            )
        return output + self.added(x, self._route).to(output.dtype)

    def added(self, x: Tensor, route: Route) -> Tensor:
        """What the experts add to the frozen output, (B, T, D), for the FFN's input x (B, T, D)."""
        gates = route if isinstance(route, Tensor) else route(x)
        return self.bypass_weight * self._experts(x, gates)

    def closed(self, num_rows: int) -> Tensor:
        """Gates (B, E) with which no expert adds anything."""
        return next(self.frozen.parameters()).new_zeros(num_rows, self.num_experts)

    def _experts(self, x: Tensor, gates: Tensor) -> Tensor:
        """Gated sum over the banks of which some gate is open."""
        # On the host, which waits here once: all sizes and indices of the experts come from it.
        is_open = (gates.detach() != 0).cpu()
        is_used = is_open.flatten(0, -2).any(0).tolist()
        total = torch.zeros_like(x)
        first = 0
        for bank in self.banks:
            last = first + bank.num_experts
            if any(is_used[first:last]):
                total = total + bank(x, gates[..., first:last], is_open[..., first:last])
            first = last
        return total
