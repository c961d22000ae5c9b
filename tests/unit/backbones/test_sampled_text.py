"""Text that a backbone samples: how much, drawn by the seed alone, and rich enough for keys."""

from __future__ import annotations

import pytest
import torch

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import passage_batches, second_moments
from trainables.backbones.hidden_states.sampled_text import sampled_contexts, sampled_passages
from trainables.interfaces import Backbone


@pytest.fixture
def split(llama: Backbone) -> Split:
    return Split(llama, 0, PrefixCache(0.0))


def test_sampled_passages_then_drawn_by_the_seed_alone(split: Split) -> None:
    passages = sampled_passages(split, 300, seed=0)
    assert passages == sampled_passages(split, 300, seed=0)
    assert passages != sampled_passages(split, 300, seed=1)
    assert [text.split()[0][:3] for text in passages][:3] == ["The", "The", "Bec"]


def test_sampled_passages_then_as_many_as_the_tokens_take_whatever_runs_at_a_time(
    split: Split,
) -> None:
    positions = split.backbone.max_positions
    assert positions is not None
    length = min(128, positions // 2)
    assert len(sampled_passages(split, 3 * length, seed=0)) == 3
    split.backbone.micro_batch.limit = 2  # of at most two rows
    assert len(sampled_passages(split, 3 * length + 1, seed=0)) == 4


def test_sampled_passages_then_their_moments_span_more_than_repeated_prompts(
    split: Split,
) -> None:
    backbone = split.backbone
    few = ["The capital of Fooland is Bar City."] * 40
    ranks = [
        int(torch.linalg.matrix_rank(second_moments(backbone, [1], batches)[1]))
        for batches in (
            passage_batches(backbone, few, 10 * backbone.ffn_size),
            passage_batches(
                backbone,
                sampled_passages(split, 10 * backbone.ffn_size, seed=0),
                10 * backbone.ffn_size,
            ),
        )
    ]
    assert ranks[0] < ranks[1] == backbone.ffn_size


def test_sampled_contexts_then_end_as_sentences_begun_by_the_openings(split: Split) -> None:
    texts = sampled_contexts(split, 3, 4, seed=0, openings=("Yes", "No"))
    assert [text[:2] for text in texts] == ["Ye", "No", "Ye"]
    assert all(text.endswith(".") for text in texts)
