"""Embeds prompts for routers: the whole prompt, its entities, or each token.

Source: LEMoE (arXiv:2406.20030v1), Section 4.2 (the mean over the embedding layer's outputs) and
Appendix B.4 (token level, entity level). Only prompt tokens count: a route must not see the target.
A sentence encoder may take the place of the mean: its numbers then stand for the whole prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.draws.ordering import plan_batches
from trainables.interfaces import Edit, PromptBatch
from trainables.moe.entities import EntityFinder


class Sentences(Protocol):
    """Embeds whole prompts by what they say."""

    @property
    def size(self) -> int:
        """Numbers of an embedding, D."""
        ...

    @property
    def num_bytes(self) -> int:
        """Of the encoder's weights."""
        ...

    def __call__(self, prompts: PromptBatch) -> Tensor:
        """Embeddings (B, D) float32."""
        ...


class PromptEmbedder:
    """Embeds prompts by the backbone's input embedding table, in float32."""

    def __init__(
        self,
        embedding: nn.Embedding,
        finder: EntityFinder | None,
        sentences: Sentences | None = None,
    ) -> None:
        """With a `finder`, an instance is the mean of its named entities; or see `sentences`."""
        self._embedding = embedding
        self.finder = finder
        self._sentences = sentences

    @property
    def reads_sentences(self) -> bool:
        """Whether an instance is embedded by a sentence encoder."""
        return self._sentences is not None

    @property
    def num_bytes(self) -> int:
        """Of what it holds beside the backbone."""
        return 0 if self._sentences is None else self._sentences.num_bytes

    @torch.no_grad()
    def middle(self) -> Tensor:
        """Where instances lie about as long as none is known, (D,): the table's mean, or 0."""
        if self._sentences is None:
            return self.table_mean()
        weight = self._embedding.weight
        return torch.zeros(self._sentences.size, device=weight.device)

    @torch.no_grad()
    def table_mean(self) -> Tensor:
        """Mean of the embedding table, (D,)."""
        return _wide(self._table()).mean(0)

    @torch.no_grad()
    def table_std(self) -> Tensor:
        """Standard deviation over all entries of the embedding table, scalar."""
        return _wide(self._table()).std()

    def _table(self) -> Tensor:
        """What each token of the vocabulary is embedded as, (V, D)."""
        weight = self._embedding.weight
        if type(self._embedding) is nn.Embedding:
            return weight
        embedded: Tensor = self._embedding(torch.arange(len(weight), device=weight.device))
        return embedded  # Gemma's are scaled

    @torch.no_grad()
    def tokens(self, prompts: PromptBatch) -> Tensor:
        """Embeddings of all tokens, (B, T, D), float32 or wider."""
        embedded: Tensor = self._embedding(prompts.input_ids)
        return _wide(embedded)

    def instance(self, prompts: PromptBatch) -> Tensor:
        """One embedding per prompt, (B, D): mean over entities, or over the prompt's tokens."""
        if self._sentences is not None:
            return self._sentences(prompts)
        if self.finder is None:
            return mean_embedding(prompts, self.tokens(prompts))
        return self.finder.embeddings(prompts, self.tokens(prompts))[0]

    def add_subjects(self, edits: Sequence[Edit]) -> None:
        """Let the finder know the subjects of `edits`."""
        if self.finder is not None:
            self.finder.add_subjects(edit.subject for edit in edits)

    def forget_subjects(self) -> None:
        """Let the finder know no subject."""
        if self.finder is not None:
            self.finder.forget_subjects()

    def fall_backs(self, prompts: PromptBatch) -> dict[str, int]:
        """How many prompts were embedded by a known subject, or whole, for want of an entity."""
        if self.finder is None:
            return {}
        sources = self.finder.embeddings(prompts, self.tokens(prompts))[1]
        return {f"entity_from_{name}": sources.count(name) for name in ("subject", "sentence")}


def mean_embedding(prompts: PromptBatch, embedded: Tensor) -> Tensor:
    """Mean over each row's prompt tokens (e_j of Section 4.2), (B, D), of embeddings (B, T, D)."""
    mask = prompts.prompt_mask[..., None].to(embedded.dtype)
    return (embedded * mask).sum(1) / mask.sum(1)


def group_means(embeddings: Tensor, most_groups: int, generator: torch.Generator) -> Tensor:
    """Mean embedding (E, D) of each k-means group of edits (B, D) that gets an expert of its own.

    There are `most_groups` of them, or as many as edits.
    """
    num_groups = min(most_groups, len(embeddings))
    if num_groups == 1:
        return embeddings.mean(0, keepdim=True)
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    points = embeddings.double().cpu().numpy()
    groups = plan_batches(points, order="kmeans_unequal", seed=seed, num_batches=num_groups)
    return torch.stack([embeddings[torch.as_tensor(group)].mean(0) for group in groups])


def _wide(values: Tensor) -> Tensor:
    """In float32, or in what is wider: routers are trained in the dtype of what they read."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
