from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.forward.tail import Tail
from trainables.interfaces import Backbone, PromptBatch
from trainables.optimise import token_losses
from trainables.prompts import PaddingSide, collate, labels_of, pad_id, tokenise

PAIRS = [
    ("The capital of Fooland, a country far away in the east, is", "Bar City"),
    ("Where was Ada Quell born?", "Vesper"),
    ("Who wrote", "Ivo Marsh of Oslo Bay"),
]


def rows_of(backbone: Backbone, padding_side: PaddingSide = "right") -> PromptBatch:
    rows = [tokenise(backbone.tokenizer, *pair) for pair in PAIRS]
    return collate(rows, pad_id=pad_id(backbone.tokenizer), padding_side=padding_side)


def starts_of(tokens: PromptBatch) -> Tensor:
    """The last prompt token, one of the middle, and the first of a row that keeps nothing."""
    firsts = tokens.attention_mask.argmax(1)
    middle = firsts + tokens.prompt_lengths // 2
    return torch.stack([tokens.prompt_ends[0], middle[1], firsts[2]])


def moved(
    split: Split, tokens: PromptBatch, starts: Tensor, tail: Tail | None
) -> tuple[Tensor, Tensor]:
    """Losses (M,) with a vector added from each row's start on, and the gradient to it, (B, D)."""
    hidden = split.hidden(tokens)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(hidden), hidden.shape[-1], generator=generator).requires_grad_()
    is_reached = torch.arange(hidden.shape[1]) >= starts[:, None]
    changed = hidden + is_reached[..., None] * vectors[:, None]
    losses = split.per_token(token_losses, tokens, labels_of(tokens), hidden=changed, tail=tail)
    (gradient,) = torch.autograd.grad(losses.sum(), vectors)
    return losses.detach(), gradient


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("first_layer", [0, 2])
def test_tail_then_losses_and_gradients_are_those_of_whole_rows(
    backbone: Backbone, padding_side: PaddingSide, first_layer: int
) -> None:
    tokens = rows_of(backbone, padding_side)
    split, starts = Split(backbone, first_layer, PrefixCache()), starts_of(tokens)
    tail = split.tail(tokens, split.hidden(tokens), starts)
    for got, expected in zip(
        moved(split, tokens, starts, tail), moved(split, tokens, starts, None), strict=True
    ):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_tail_then_it_runs_no_token_before_the_starts(backbone: Backbone) -> None:
    tokens = rows_of(backbone)
    split = Split(backbone, 2, PrefixCache())
    ends = tokens.prompt_ends
    tail = split.tail(tokens, split.hidden(tokens), ends)
    assert tail is not None
    lengths = tokens.attention_mask.sum(1)
    assert tail.columns.shape == (len(PAIRS), int((lengths - ends).max()))


def test_rows_of_a_tail_then_they_are_those_of_fewer_rows(backbone: Backbone) -> None:
    tokens = rows_of(backbone)
    split, starts, index = (
        Split(backbone, 2, PrefixCache()),
        starts_of(tokens),
        torch.tensor([1, 2]),
    )
    tail = split.tail(tokens, split.hidden(tokens), starts)
    assert tail is not None
    hidden = split.hidden(tokens) + 0.1
    expected = tail.final(hidden)[tokens.scored_counts[0] :]
    torch.testing.assert_close(tail.rows(index).final(hidden[index]), expected)


def test_tail_when_a_scored_position_is_before_it_then_that_is_an_error(
    backbone: Backbone,
) -> None:
    tokens = rows_of(backbone)
    split = Split(backbone, 2, PrefixCache())
    with pytest.raises(ValueError, match="before what a change can reach"):
        split.tail(tokens, split.hidden(tokens), tokens.prompt_ends + 1)


def test_tail_when_rows_run_in_micro_batches_then_nothing_is_kept(
    fresh: Callable[[str], Backbone],
) -> None:
    llama = fresh("llama")
    tokens, split = rows_of(llama), Split(llama, 2, PrefixCache())
    starts = starts_of(tokens)
    tail = split.tail(tokens, split.hidden(tokens), starts)
    expected = moved(split, tokens, starts, None)
    llama.micro_batch.limit = 2
    assert split.tail(tokens, split.hidden(tokens), starts) is None
    # A limit that came after the tail was made: whole rows run again.
    for got, wanted in zip(moved(split, tokens, starts, tail), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_tail_of_a_site_then_losses_are_those_of_whole_rows(backbone: Backbone) -> None:
    tokens = rows_of(backbone)
    site = Site(backbone, 1, backbone.down_path(1), PrefixCache())
    _, output = site.frozen(tokens)
    changed = output.clone()
    changed[torch.arange(len(PAIRS)), tokens.prompt_ends] += 0.5
    tail = site.tail(tokens, output, tokens.prompt_ends)
    assert (tail is None) == (backbone.family.norm_after_ffn is not None)
    held = (token_losses, tokens, changed, labels_of(tokens))
    torch.testing.assert_close(
        site.per_token(*held, tail=tail), site.per_token(*held), atol=1e-5, rtol=1e-4
    )
