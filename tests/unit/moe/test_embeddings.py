"""What a router compares prompts with is embedded as the prompts are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from trainables.interfaces import Backbone
from trainables.moe.embeddings import PromptEmbedder
from trainables.prompts import Row, collate


@pytest.mark.parametrize(("family", "scale"), [("llama", 1.0), ("gemma2", 32**0.5)])
@torch.no_grad()
def test_mean_and_spread_of_the_table_are_those_of_what_tokens_are_embedded_as(
    family: str, scale: float, fresh: Callable[[str], Backbone]
) -> None:
    backbone = fresh(family)
    weight = backbone.embedding.weight
    embedder = PromptEmbedder(backbone.embedding, None)
    every = collate([Row((token,), 1) for token in range(len(weight))], pad_id=0)
    tokens = embedder.tokens(every)[:, 0]
    torch.testing.assert_close(tokens, weight * scale)
    torch.testing.assert_close(embedder.table_mean(), tokens.mean(0))
    torch.testing.assert_close(embedder.table_std(), tokens.std())
