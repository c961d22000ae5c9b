"""Turns a batch of prompts into the adaptor's route: feeds the router what it reads.

Source: LEMoE (arXiv:2406.20030v1), Sections 4.2 and 6.3; MEMoE v1 (arXiv:2405.19086), Section 3.2.
A decision per prompt is taken from its prompt tokens, once, and kept while decoding; a decision
per token is taken from that token.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor, nn

from trainables.interfaces import PromptBatch
from trainables.moe.adaptor import Adaptor, Route
from trainables.moe.embeddings import PromptEmbedder
from trainables.moe.routers import Router, with_anchor


class Reads(StrEnum):
    """What a router reads."""

    INSTANCE = "instance"  # one embedding of the prompt, (B, D)
    TOKEN = "token"  # each token's embedding, (B, T, D)
    HIDDEN = "hidden"  # the FFN's input, (B, T, D)
    HIDDEN_AND_ANCHOR = "hidden_and_anchor"  # the FFN's input joined by the prompt's embedding


class PromptRouting:
    """A router together with what it reads."""

    def __init__(
        self,
        router: Router,
        embedder: PromptEmbedder,
        reads: Reads,
        *,
        rescales: bool | None = None,
    ) -> None:
        """Join a router to what it reads.

        Args:
            router: Makes gates of it.
            embedder: Embeds prompts.
            reads: What of a prompt.
            rescales: Divide prompt embeddings by the standard deviation of the embedding table;
                None: where they join the FFN's input. A table's entries are small: beside a
                normalised hidden state a gate would hardly see the anchor.
        """
        self.router = router
        self._embedder = embedder
        self._reads = reads
        if rescales is None:
            rescales = reads is Reads.HIDDEN_AND_ANCHOR
        self._anchor_scale = 1.0 / embedder.table_std() if rescales else 1.0

    def features(self, prompts: PromptBatch) -> Tensor | None:
        """What is read besides the FFN's input: (B, D), (B, T, D), or nothing."""
        if self._reads is Reads.HIDDEN:
            return None
        if self._reads is Reads.TOKEN:
            return self._embedder.tokens(prompts)
        return self._embedder.instance(prompts) * self._anchor_scale

    def kept(self, features: Tensor | None) -> Tensor | None:
        """What to keep of `features` while decoding; None where new tokens bring their own."""
        return None if self._reads is Reads.TOKEN else features

    def route(self, features: Tensor | None, first: int = 0) -> Route:
        """Gates of all experts, or the function that makes them of the FFN's input.

        `first` is the first expert of the batch under way, 0 at inference.
        """
        return self._applied(features, lambda inputs: self.router.gates(inputs, first))

    def scores(self, features: Tensor | None, x: Tensor) -> Tensor:
        """Router logits of all experts, (B, E) or (B, T, E), for the FFN's input x (B, T, D)."""
        return self.router.scores(self._read(features, x))

    @torch.no_grad()
    def shares(
        self,
        prompts: PromptBatch,
        adaptor: Adaptor,
        forward: Callable[[PromptBatch], object],
        first: int = 0,
    ) -> Tensor:
        """How much of each prompt goes to each of the experts from `first` on, (B, E - first).

        The share of its tokens whose best expert that is, where they are routed one by one; else
        the softmax of the router's scores.

        Args:
            prompts: Only their prompt tokens count.
            adaptor: Stands in the backbone.
            forward: Runs the backbone, for routers that read the FFN's input.
            first: First of the experts to choose from.
        """
        seen: list[Tensor] = []

        def record(inputs: Tensor) -> Tensor:
            scores = self.router.scores(inputs)
            seen.append(scores[..., first:])
            return scores.softmax(-1)

        route = self._applied(self.features(prompts), record)
        if not isinstance(route, Tensor):
            with adaptor.routed(route):
                forward(prompts)
        scores = seen[0]
        if scores.dim() == 2:
            return scores.softmax(-1)
        best = nn.functional.one_hot(scores.argmax(-1), scores.shape[-1])
        mask = prompts.prompt_mask[..., None].to(scores)
        return (best * mask).sum(1) / mask.sum(1)

    def _applied(self, features: Tensor | None, rule: Callable[[Tensor], Tensor]) -> Route:
        if self._reads in (Reads.INSTANCE, Reads.TOKEN):
            assert features is not None
            return rule(features)
        return lambda x: rule(self._read(features, x))

    def _read(self, features: Tensor | None, x: Tensor) -> Tensor:
        if features is None:
            return x
        return with_anchor(x, features) if self._reads is Reads.HIDDEN_AND_ANCHOR else features
