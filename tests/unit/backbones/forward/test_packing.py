from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.unit.backbones.forward.test_tail import rows_of
from trainables.backbones.forward.layer_mask import mask_of_layers
from trainables.backbones.forward.packing import Packing, packing_of
from trainables.backbones.forward.parts import decoder_part
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.interfaces import Backbone, PromptBatch
from trainables.optimise import token_losses
from trainables.prompts import PaddingSide, labels_of

WIDE = 10_000  # hidden states so wide that attention costs next to nothing


def batch(*rows: str) -> PromptBatch:
    """Rows as drawn: `.` padding, `-` a token, `x` one that is scored."""
    drawn = [list(row) for row in rows]
    real = torch.tensor([[mark != "." for mark in row] for row in drawn]).long()
    scored = torch.tensor([[mark == "x" for mark in row] for row in drawn])
    return PromptBatch(real.clone(), real, torch.ones(len(rows), dtype=torch.int64), scored)


def looking_back(tokens: PromptBatch) -> Tensor:
    """The mask (B, 1, T, T) of attention to what is real and not later."""
    width = tokens.input_ids.shape[1]
    back = torch.ones(width, width, dtype=torch.bool).tril()
    return (back & tokens.attention_mask.bool()[:, None])[:, None]


def packed(tokens: PromptBatch, hidden_size: int = WIDE) -> Packing | None:
    return packing_of(tokens, looking_back(tokens), hidden_size)


def test_packing_then_short_rows_share_one() -> None:
    made = packed(batch("----x", "--x..", "-x..."))
    assert made is not None
    assert made.source.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 10, 11]]
    assert made.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert made.scored.tolist() == [4, 7, 9]
    second = made.mask[1, 0].long().tolist()
    assert second == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_packing_then_what_follows_the_last_scored_position_does_not_run() -> None:
    made = packed(batch("--x--", "-x..."))
    assert made is not None
    assert made.source.tolist() == [[0, 1, 2, 5, 6]]


def test_packing_when_rows_are_padded_on_the_left_then_their_positions_are_their_own() -> None:
    made = packed(batch("----x", "...-x", "..-x-"), 16)
    assert made is not None
    assert made.source.tolist() == [[0, 1, 2, 3, 4], [8, 9, 12, 13, 0]]
    assert made.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 1, 0]]
    assert made.mask[1, 0, 4].tolist() == [False, False, False, False, True]
    assert not made.mask[1, 0, :4, 4].any()


def test_packing_when_a_row_has_nothing_scored_then_it_does_not_run() -> None:
    made = packed(batch("----x", "----.", "----."))
    assert made is not None
    assert made.source.tolist() == [[0, 1, 2, 3, 4]]


def test_packing_when_nothing_is_scored_then_there_is_none() -> None:
    assert packed(batch("-----", "---..")) is None


def test_packing_when_rows_are_full_then_there_is_none() -> None:
    assert packed(batch("----x", "----x")) is None


def test_packing_when_attention_is_dear_then_rows_are_not_made_longer() -> None:
    """Three rows of 4 of 6: one row of 12 costs 12 (1 + 12 / D), three of 4 cost 12 (1 + 4 / D)."""
    tokens = batch("---x--", "---x--", "---x--")
    dear = packed(tokens, 4)
    assert dear is not None
    assert dear.source.shape == (3, 4)


def moved(split: Split, tokens: PromptBatch) -> tuple[Tensor, Tensor]:
    """Losses (M,) with a vector added at every token, and the gradient to it, (B, T, D)."""
    hidden = split.hidden(tokens)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(hidden.shape, generator=generator).requires_grad_()
    losses = split.per_token(token_losses, tokens, labels_of(tokens), hidden=hidden + vectors)
    (gradient,) = torch.autograd.grad(losses.sum(), vectors)
    return losses.detach(), gradient * tokens.attention_mask[..., None]


class Rows(nn.Module):
    """Notes how many rows come to a layer, and hands them on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.seen: list[int] = []
        layer.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        self.seen.append(len(args[0] if args else kwargs["hidden_states"]))


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize(("first_layer", "has_batch_state"), [(0, False), (1, True), (2, False)])
def test_packed_then_losses_and_gradients_are_those_of_padded_rows(
    backbone: Backbone, padding_side: PaddingSide, first_layer: int, has_batch_state: bool
) -> None:
    tokens = rows_of(backbone, padding_side)
    packs, pads = (
        Split(
            backbone, first_layer, PrefixCache(), has_batch_state=has_batch_state, packs=is_packed
        )
        for is_packed in (True, False)
    )
    for got, expected in zip(moved(packs, tokens), moved(pads, tokens), strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_packed_then_fewer_rows_run_where_the_family_takes_a_mask(
    fresh: Callable[[str], Backbone],
) -> None:
    llama = fresh("llama")
    tokens = rows_of(llama)
    layers = llama.model.get_submodule(llama.family.layers)
    counted = [Rows(layers[index]) for index in (1, 2)]
    moved(Split(llama, 1, PrefixCache(), packs=True), tokens)
    assert [each.seen[-1] for each in counted] == [3, 2]


def test_packed_when_rows_run_in_micro_batches_then_they_do_not_share(
    fresh: Callable[[str], Backbone],
) -> None:
    llama = fresh("llama")
    tokens = rows_of(llama)
    split = Split(llama, 1, PrefixCache(), packs=True)
    expected = moved(split, tokens)
    llama.micro_batch.limit = 1
    for got, wanted in zip(moved(split, tokens), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_packing_then_windows_count_the_tokens_of_a_row(fresh: Callable[[str], Backbone]) -> None:
    """A mask that the family makes for whole rows is cut out of, whatever else it says."""
    llama = fresh("llama")
    tokens = rows_of(llama)
    part = decoder_part(llama, 1, 4, has_norm=True)
    mask = mask_of_layers(
        llama.model, part, tokens.attention_mask, tokens.position_ids, torch.float32
    )
    assert mask is not None
    window = mask & torch.ones_like(mask).triu(-1)  # a token sees itself and the one before
    made = packing_of(tokens, window, WIDE)
    assert made is not None
    assert int(made.mask.sum(-1).max()) == 2
