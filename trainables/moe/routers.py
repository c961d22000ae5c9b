"""Routers: compute gates over the experts from a prompt's embedding or from the FFN's input.

Source: LEMoE (arXiv:2406.20030v1), Eq. 9-12 and Appendix B.4; MEMoE v1 (arXiv:2405.19086), Section
3.2, for the knowledge anchor. Three rules, each a class with the methods of `Router`:

- `FrozenAnchors`: a key is the centred, normalised mean embedding of the edits that its expert
  learned, and never changes. Not printed; what works (see the method that uses it).
- `LearnedKeys`: Eq. 10 and 11 as printed.
- `HiddenRouter`: one linear layer on the FFN's input, optionally joined by a knowledge anchor.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.interfaces import State


class Router(Protocol):
    """What all routers offer; E experts so far, features of any leading shape."""

    def add(self, groups: Tensor, generator: torch.Generator) -> None:
        """Give each of some new experts a key; row e of `groups` is expert e's mean embedding."""
        ...

    def scores(self, features: Tensor) -> Tensor:
        """Router logits (..., E) of all experts, for features (..., D)."""
        ...

    def gates(self, features: Tensor, first: int = 0) -> Tensor:
        """Gates (..., E) of all experts; `first` is the first one of the batch under way."""
        ...

    def trainable(self) -> dict[str, nn.Parameter]:
        """What the batch under way trains; empty between batches."""
        ...

    def freeze(self) -> None:
        """End the batch: nothing is trained any more."""
        ...

    def state(self) -> State:
        """All tensors, trainable ones included."""
        ...

    def load(self, state: State) -> None:
        """Continue from `state`, inside a batch or between two."""
        ...


def top_k_of_softmax(scores: Tensor, top_k: int) -> Tensor:
    """Softmax over all experts, then all but the `top_k` largest set to zero: Eq. 9 as printed.

    The kept gates are not scaled up to sum 1. With fewer experts than `top_k` all are kept.
    """
    return largest(scores.softmax(-1), top_k)


def largest(gates: Tensor, top_k: int) -> Tensor:
    """`gates` (..., E), all but the `top_k` largest set to zero."""
    index = gates.topk(min(top_k, gates.shape[-1]), dim=-1).indices
    return torch.zeros_like(gates).scatter(-1, index, gates.gather(-1, index))


def softmax_of_top_k(scores: Tensor, top_k: int) -> Tensor:
    """Softmax over the `top_k` best experts alone; their gates sum to 1, the others are zero.

    With fewer experts than `top_k` all are used.
    """
    top_k = min(top_k, scores.shape[-1])
    best = scores.topk(top_k, dim=-1)
    return torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(-1))


_SAME = 1e-6  # two keys are one if the cosine of their angle is nearer to 1: rounding parts them


class FrozenAnchors:
    """Keys computed from data and kept; cosine similarity, softmax, top_k of them.

    Of equal keys the newest alone is in use: a prompt that is edited again, each time in a batch of
    its own, is answered by the expert that learned it last. The mean of a larger group is seldom
    equal to another, so that there the earlier expert may win.
    """

    def __init__(
        self, centre: Tensor, top_k: int, temperature: float, *, renormalises: bool = True
    ) -> None:
        """No experts yet.

        Args:
            centre: (D,), subtracted from every embedding: what all prompts share says nothing of
                their differences, and without it all cosines are close to 1.
            top_k: Experts per input.
            temperature: Divides the cosines before the softmax.
            renormalises: Whether the gates of the top_k sum to 1; else they are those of the
                softmax over all experts (LEMoE, Eq. 11), in training those of the experts that
                learn.
        """
        self.centre = centre
        self.keys = centre.new_empty(0, len(centre))  # (E, D)
        self._is_replaced = centre.new_empty(0, dtype=torch.bool)  # (E,)
        self._top_k = top_k
        self._temperature = temperature
        self._renormalises = renormalises

    def add(self, groups: Tensor, generator: torch.Generator) -> None:
        """Append the keys of new experts."""
        new, num_older = self.query(groups), len(self.keys)
        self.keys = torch.cat([self.keys, new])
        is_same = self.keys @ new.T > 1 - _SAME
        older = nn.functional.pad(self._is_replaced, (0, len(new)))
        self._is_replaced = older | is_same.triu(1 - num_older).any(1)  # by a key behind its own

    def query(self, embedding: Tensor) -> Tensor:
        """`embedding` (..., D) centred, then scaled to length 1."""
        return nn.functional.normalize(embedding - self.centre, dim=-1)

    def scores(self, features: Tensor) -> Tensor:
        """Cosines divided by the temperature, (..., E); -inf where a newer key is the same."""
        cosines = self.query(features) @ self.keys.T
        return cosines.masked_fill(self._is_replaced, -torch.inf) / self._temperature

    def gates(self, features: Tensor, first: int = 0) -> Tensor:
        """Gates (..., E); training is forced onto the experts from `first` on, its own."""
        scores = self.scores(features)
        if self._renormalises:
            own = softmax_of_top_k(scores[..., first:], self._top_k)
        else:
            own = largest(scores.softmax(-1)[..., first:], self._top_k)
        return nn.functional.pad(own, (first, 0))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Nothing."""
        return {}

    def freeze(self) -> None:
        """Nothing to freeze."""

    def state(self) -> State:
        """Centre and keys."""
        return State({"centre": self.centre, "keys": self.keys, "is_replaced": self._is_replaced})

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.centre = state.tensors["centre"].to(self.centre).clone()
        self.keys = state.tensors["keys"].to(self.centre).clone()
        self._is_replaced = state.tensors["is_replaced"].to(self.centre.device).clone()


class LearnedKeys:
    """Eq. 10 and 11 as printed: v = W_up SiLU(W_down e), g = TopK(softmax_i(k_i v)).

    Keys of earlier batches are frozen, the projection is shared and goes on training. Silent in the
    paper: W_down and W_up start uniform in +-1/sqrt(inputs), a new key as the mean query of its
    edits (a random key seldom wins against trained ones, and then its expert gets no gradient).
    """

    def __init__(
        self, like: Tensor, projection_size: int, top_k: int, generator: torch.Generator
    ) -> None:
        """Draw the projection; no experts yet.

        Args:
            like: A tensor (..., D) that gives width, dtype and device.
            projection_size: d_p of Eq. 10.
            top_k: Experts per input.
            generator: Draws on the CPU.
        """
        width = like.shape[-1]
        self.down = nn.Parameter(_uniform((projection_size, width), generator, like))
        self.up = nn.Parameter(_uniform((width, projection_size), generator, like))
        self._old = like.new_empty(0, width)  # (E before this batch, D)
        self._new = nn.Parameter(like.new_empty(0, width))
        self._top_k = top_k
        self.freeze()

    @property
    def keys(self) -> Tensor:
        """k_i of all experts, (E, D)."""
        return torch.cat([self._old, self._new])

    def add(self, groups: Tensor, generator: torch.Generator) -> None:
        """Append trainable keys; `groups` (E, D) are their edits' mean embeddings."""
        self._old = self.keys.detach()
        self._new = nn.Parameter(self.query(groups).detach())
        self.down.requires_grad_(True)
        self.up.requires_grad_(True)

    def query(self, embedding: Tensor) -> Tensor:
        """Query v of Eq. 10, (..., D)."""
        return nn.functional.silu(embedding @ self.down.T) @ self.up.T

    def scores(self, features: Tensor) -> Tensor:
        """k_i v, (..., E)."""
        return self.query(features) @ self.keys.T

    def gates(self, features: Tensor, first: int = 0) -> Tensor:
        """Eq. 11 over frozen and current keys alike, in training as at inference; (..., E)."""
        return top_k_of_softmax(self.scores(features), self._top_k)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The projection and the newest keys, theta_proj and theta_k of Eq. 13."""
        if not self.down.requires_grad:
            return {}
        return {"keys": self._new, "projection_down": self.down, "projection_up": self.up}

    def freeze(self) -> None:
        """Stop training projection and keys."""
        for parameter in (self.down, self.up, self._new):
            parameter.requires_grad_(False)
            parameter.grad = None

    def state(self) -> State:
        """Projection and keys."""
        tensors = {"down": self.down, "up": self.up, "old": self._old, "new": self._new}
        values = {"trains": self.down.requires_grad}
        return State({name: each.detach() for name, each in tensors.items()}, dict(values))

    def load(self, state: State) -> None:
        """Continue from `state`."""
        stored = {name: value.to(self._old).clone() for name, value in state.tensors.items()}
        self.down, self.up = nn.Parameter(stored["down"]), nn.Parameter(stored["up"])
        self._old, self._new = stored["old"], nn.Parameter(stored["new"])
        if not state.values["trains"]:
            self.freeze()


class HiddenRouter:
    """softmax(W x) over the experts for each token; the conventional single-layer router.

    With `anchor_size` the input is [x ; anchor], MEMoE v1's knowledge anchor routing. Every batch
    appends a row per new expert, uniform in +-1/sqrt(inputs), and trains all rows: this router has
    no key per batch that could be frozen (LEMoE, Figure 4 left: the new FFN and the router train).
    """

    def __init__(
        self, like: Tensor, top_k: int, *, anchor_size: int = 0, renormalises: bool = False
    ) -> None:
        """No experts yet.

        Args:
            like: A tensor (..., D) that gives width, dtype and device.
            top_k: Experts per input.
            anchor_size: Entries that follow the FFN's input.
            renormalises: The kept gates are scaled up to sum 1.
        """
        self.weight = nn.Parameter(like.new_empty(0, like.shape[-1] + anchor_size))
        self._top_k = top_k
        self._rule = softmax_of_top_k if renormalises else top_k_of_softmax
        self.freeze()

    def add(self, groups: Tensor, generator: torch.Generator) -> None:
        """Append a row for each of `groups`; only their number counts."""
        rows = _uniform((len(groups), self.weight.shape[1]), generator, self.weight)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), rows]))

    def scores(self, features: Tensor) -> Tensor:
        """Router logits (B, T, E) of features (B, T, D), or (B, T, 2 D) with an anchor."""
        return features.to(self.weight.dtype) @ self.weight.T

    def gates(self, features: Tensor, first: int = 0) -> Tensor:
        """Eq. 9 with r(x) = W x, (B, T, E); the same in training as at inference."""
        return self.gates_of(self.scores(features))

    def gates_of(self, scores: Tensor) -> Tensor:
        """Gates (..., E) of router logits, for one who adds noise to them."""
        return self._rule(scores, self._top_k)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weight (E, D)."""
        return {"router": self.weight} if self.weight.requires_grad else {}

    def freeze(self) -> None:
        """Stop training the weight."""
        self.weight.requires_grad_(False)
        self.weight.grad = None

    def thaw(self) -> None:
        """Train all rows again, in a batch that adds none."""
        self.weight.requires_grad_(True)

    def state(self) -> State:
        """The weight."""
        values = {"trains": self.weight.requires_grad}
        return State({"weight": self.weight.detach()}, dict(values))

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.weight = nn.Parameter(state.tensors["weight"].to(self.weight).clone())
        if not state.values["trains"]:
            self.freeze()


def with_anchor(x: Tensor, anchor: Tensor) -> Tensor:
    """[x ; anchor] for every token: (B, T, 2 D) of (B, T, D) and (B, D)."""
    spread = anchor.to(x)[:, None].expand(-1, x.shape[1], -1)
    return torch.cat([x, spread], dim=-1)


def _uniform(shape: tuple[int, int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform in +-1/sqrt(columns), drawn on the CPU so that a seed means the same everywhere."""
    drawn: Tensor = (torch.rand(shape, generator=generator) * 2 - 1) / shape[1] ** 0.5
    return drawn.to(like.device, like.dtype)
