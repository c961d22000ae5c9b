"""Projection router of ARM: one linear layer that learns which expert each edit was given to.

Source: ARM (Serial Lifelong Editing via Mixture of Knowledge Experts), Eq. 7 to 9 and Table 5.

Table 8 names one optimiser, SGD, for both rates; the default here is Adam, and `sgd` is as printed.

Choices where the paper is silent: a linear layer that starts at zero, trained with one step for
each step of the expert; Adam's moments live as long as the router, and its features are
standardised by the caller. The published rate is 1e-4; on standardised features of small models
1e-3 routes more edits to their own expert. Table 5's "Act. + Router" is "the weighted sum"; here
the router's softmax and the experts' shares of all activation weigh alike.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.interfaces import State

Routing = Literal["projection", "activation", "both"]
RouterOptimiser = Literal["adam", "sgd"]


def expert_route(
    activations: Tensor, router_scores: Tensor, routing: Routing, abstain_below: float
) -> Tensor:
    """Expert that answers each prompt, (B,); -1 for the original weights.

    Eq. 9: the original weights where max_i delta_i is below beta'; else Eq. 8 by the router, the
    expert of the highest activation, or the best sum of both.

    Args:
        activations: delta_i(x), (B, E).
        router_scores: Logits of the projection router, (B, E).
        routing: Who decides.
        abstain_below: beta', in the unit of the activations.
    """
    scores = torch.zeros_like(activations)
    if routing in ("projection", "both"):
        scores = scores + router_scores.softmax(-1)
    if routing in ("activation", "both"):
        total = activations.sum(1, keepdim=True)
        scores = scores + activations / torch.where(total > 0, total, 1.0)
    return torch.where(activations.amax(1) >= abstain_below, scores.argmax(1), -1)


class ProjectionRouter:
    """Scores (B, E) of E experts from features (B, F)."""

    def __init__(
        self,
        num_features: int,
        num_experts: int,
        lr: float,
        device: torch.device,
        optimiser: RouterOptimiser = "adam",
    ) -> None:
        self._weight = nn.Parameter(torch.zeros(num_experts, num_features, device=device))
        self._bias = nn.Parameter(torch.zeros(num_experts, device=device))
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser]
        self._optimiser = kind([self._weight, self._bias], lr=lr)

    @property
    def num_bytes(self) -> int:
        """Storage of the layer."""
        return self._weight.nbytes + self._bias.nbytes

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Logits of the experts; their argmax is Eq. 8."""
        return nn.functional.linear(features, self._weight, self._bias)

    def step(self, features: Tensor, owners: Tensor) -> Tensor:
        """One step on the cross entropy of Eq. 7; returns its value before the step.

        Args:
            features: (B, F).
            owners: gt, the expert that learns each row, (B,).
        """
        logits = nn.functional.linear(features, self._weight, self._bias)
        loss = nn.functional.cross_entropy(logits, owners)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    def state(self) -> State:
        """The layer and Adam's moments."""
        state = State({"weight": self._weight.detach(), "bias": self._bias.detach()})
        for index, moments in self._optimiser.state_dict()["state"].items():
            for key, value in moments.items():
                state.tensors[f"adam/{index}/{key}"] = torch.as_tensor(value)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        with torch.no_grad():
            self._weight.copy_(state.tensors["weight"])
            self._bias.copy_(state.tensors["bias"])
        moments: dict[int, dict[str, Any]] = {}
        for name, value in state.tensors.items():
            if name.startswith("adam/"):
                _, index, key = name.split("/")
                moments.setdefault(int(index), {})[key] = value.clone()
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
