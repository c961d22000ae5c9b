"""Dual-attention router: from the unedited model's view of a prompt to one gate per expert.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors", Eq. 13 (adaptor), 14
(attention), 15 (router) and the gate of Eq. 10. e(x) is the last hidden state of the prompt's last
token, e^(x) = W_up (W_down e + b_1) + b_2 approximates it after the edit. A has the query e^ and
keys and values of e, A^ the query e and keys and values of e^. Then r is
softmax(W_r (alpha A + beta A^)).

As printed, Eq. 14 has one query and one key: the softmax over one score is 1, W_q and W_k get no
gradient at all, and the router is a linear map of e, because Eq. 13 has no nonlinearity. The
readings, B prompts, D the model's width:

- `chunks`: e and e^ are cut into C pieces of D / C, which attend to each other. The default.
- `outer`: column vectors, so that Q K^T is D x D: attention over features. The printed shapes.
- `pair`: keys and values are e and e^ together.
- `sequence`: keys and values are all prompt tokens' states instead of the last one's.
- `one_key`: as printed, degenerate; kept because it is what the equation says.
- `linear`: no attention, W_r e: the conventional router of the paper's Table 2.

Choices where the paper is silent: the two directions have matrices of their own; scores are
divided by the root of the width of what is multiplied (D, or D / C for `chunks`; with C = 1 that is
Eq. 14); matrices start uniform in +-1/sqrt(columns), biases at 0, alpha and beta at 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Reading = Literal["chunks", "one_key", "outer", "pair", "sequence", "linear"]
Gate = Literal["single", "double", "constant"]

_LARGE = 2**26  # elements of D x D scores held at once by `outer`


class DualAttentionRouter(nn.Module):
    """Router logits W_r (alpha A + beta A^) of prompts; Eq. 15 is their softmax."""

    def __init__(
        self,
        num_experts: int,
        *,
        reading: Reading,
        projection_size: int,
        num_chunks: int,
        like: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Draw the weights.

        Args:
            num_experts: E.
            reading: What attends to what; see the module's docstring.
            projection_size: d_p of Eq. 13.
            num_chunks: C, a divisor of D; read by `chunks` alone.
            like: (..., D), gives width, dtype and device.
            generator: Draws on the CPU, so that a seed means the same on every device.
        """
        super().__init__()
        width = like.shape[-1]
        self._reading = reading
        self.experts = nn.Parameter(_uniform(num_experts, width, generator, like))  # W_r
        if reading == "linear":
            return
        self.down = nn.Parameter(_uniform(projection_size, width, generator, like))
        self.up = nn.Parameter(_uniform(width, projection_size, generator, like))
        self.down_bias = nn.Parameter(like.new_zeros(projection_size))
        self.up_bias = nn.Parameter(like.new_zeros(width))
        chunks = num_chunks if reading == "chunks" else 1
        self.before = _Attention(width, reading, chunks, like, generator)
        self.after = _Attention(width, reading, chunks, like, generator)
        self.mix = nn.Parameter(like.new_ones(2))  # alpha, beta

    def edited(self, states: Tensor) -> Tensor:
        """e^ of Eq. 13, (..., D) of (..., D)."""
        return (states @ self.down.T + self.down_bias) @ self.up.T + self.up_bias

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Router logits (B, E).

        Args:
            states: Final hidden states of the unedited model, (B, L, D), the prompt's last token
                last; only `sequence` looks at the others.
            mask: True where there is a token, (B, L).
        """
        e = states[:, -1]
        if self._reading == "linear":
            return e @ self.experts.T
        edited = self.edited(states)
        own, other, mask = self._sources(states, edited, mask)
        before = self.before(edited[:, -1], own, mask)
        after = self.after(e, other, mask)
        return (self.mix[0] * before + self.mix[1] * after) @ self.experts.T

    def _sources(
        self, states: Tensor, edited: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the two directions, (B, L, D) each, and which of them there are."""
        if self._reading == "sequence":
            return states, edited, mask
        last, last_edited = states[:, -1:], edited[:, -1:]
        if self._reading == "pair":
            both = torch.cat([last, last_edited], dim=1)
            return both, both, mask.new_ones(both.shape[:2])
        return last, last_edited, mask[:, -1:]


class _Attention(nn.Module):
    """Eq. 14: softmax(Q K^T / sqrt(width)) V of one query and L keys a prompt."""

    def __init__(
        self, width: int, reading: Reading, chunks: int, like: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            nn.Parameter(_uniform(width, width, generator, like)) for _ in range(3)
        )
        self._is_outer, self._chunks = reading == "outer", chunks

    def forward(self, query: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, D) of a query (B, D), keys and values (B, L, D) and their mask (B, L)."""
        Q, K, V = query @ self.query.T, source @ self.key.T, source @ self.value.T
        if self._is_outer:
            return _over_features(Q, K[:, 0], V[:, 0])
        if self._chunks > 1:
            return _over_chunks(Q, K[:, 0], V[:, 0], self._chunks)
        scores = (K @ Q[:, :, None])[..., 0] / Q.shape[-1] ** 0.5  # (B, L)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return (weights[:, None] @ V)[:, 0]


def instance_gates(logits: Tensor, top_k: int, gate: Gate, labels: Tensor | None = None) -> Tensor:
    """Gates (B, E) of Eq. 10: one route for all tokens of a prompt, zero outside the top k.

    Args:
        logits: Of the router, (B, E).
        top_k: Experts per prompt.
        gate: `single`: r of Eq. 15. `double`: as printed, Eq. 10's softmax over Eq. 15's; with E
            experts no gate then exceeds e / (e + E - 1). `constant`: 1 / top_k.
        labels: Expert that each prompt must go to, (B,); -1: the router chooses. With several
            experts the best others join it.
    """
    chances = logits.softmax(-1)
    ranking = chances.detach().clone()
    if labels is not None:
        is_forced = labels[:, None] == torch.arange(ranking.shape[1], device=labels.device)
        ranking.masked_fill_(is_forced, 2.0)  # above every probability
    chosen = ranking.topk(min(top_k, ranking.shape[1]), dim=-1).indices
    values = {
        "single": lambda: chances,
        "double": lambda: chances.softmax(-1),
        "constant": lambda: torch.full_like(chances, 1.0 / chosen.shape[1]),
    }[gate]()
    return torch.zeros_like(values).scatter(-1, chosen, values.gather(-1, chosen))


def _over_chunks(Q: Tensor, K: Tensor, V: Tensor, chunks: int) -> Tensor:
    """Attention among the C pieces of each vector, (B, D)."""
    Q, K, V = (part.unflatten(-1, (chunks, -1)) for part in (Q, K, V))  # (B, C, D / C)
    weights = (Q @ K.transpose(1, 2) / Q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ V).flatten(1)


def _over_features(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Attention among the D features of each vector, (B, D): A_i = sum_j softmax_j(q_i k_j) v_j."""
    width = Q.shape[-1]
    parts = []
    for q, k, v in zip(
        *(part.split(max(1, _LARGE // width**2)) for part in (Q, K, V)), strict=True
    ):
        weights = (q[:, :, None] * k[:, None, :] / width**0.5).softmax(-1)
        parts.append((weights @ v[:, :, None])[..., 0])
    return torch.cat(parts)


def _uniform(rows: int, columns: int, generator: torch.Generator, like: Tensor) -> Tensor:
    drawn: Tensor = (torch.rand(rows, columns, generator=generator) * 2 - 1) / columns**0.5
    return drawn.to(like.device, like.dtype)
