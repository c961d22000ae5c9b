from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import save_tiny
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, DecodeState
from trainables.optimise import token_losses
from trainables.prompts import PaddingSide, Row, collate, labels_of, pad_id, tokenise

PAIRS = [
    ("The capital of Fooland is", "Bar City"),
    ("Where was Ada Quell born?", "Vesper"),
    ("Who wrote The Long Tide?", "Ivo Marsh of Oslo Bay"),
]


def full_logits(backbone: Backbone, prompt: str, target: str) -> torch.Tensor:
    """The model's own forward on one unpadded row, at the target positions."""
    row = tokenise(backbone.tokenizer, prompt, target)
    logits = backbone.model(input_ids=torch.tensor([row.ids])).logits[0]
    return logits[row.prompt_length - 1 : -1]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("first_layer", [0, 2, 3])
@torch.no_grad()
def test_split_logits_match_the_unpadded_full_forward(
    backbone: Backbone, padding_side: PaddingSide, first_layer: int
) -> None:
    rows = [tokenise(backbone.tokenizer, *pair) for pair in PAIRS]
    batch = collate(rows, pad_id=pad_id(backbone.tokenizer), padding_side=padding_side)
    split = Split(backbone, first_layer, PrefixCache())
    expected = torch.cat([full_logits(backbone, *pair) for pair in PAIRS])
    for _ in range(2):  # the second time from the cache
        logits, _ = split.logits(batch)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_when_the_head_has_a_bias_then_it_counts(fresh: Callable[[str], Backbone]) -> None:
    gptj = fresh("gptj")
    expected = full_logits(gptj, *PAIRS[0])
    bias = gptj.model.get_parameter("lm_head.bias")
    bias.copy_(torch.arange(len(bias)))
    batch = collate([tokenise(gptj.tokenizer, *PAIRS[0])], pad_id=0)
    logits, _ = Split(gptj, 2, PrefixCache()).logits(batch)
    torch.testing.assert_close(logits, expected + bias, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_when_they_are_capped_then_none_is_beyond_the_cap(
    fresh: Callable[[str], Backbone],
) -> None:
    gemma = fresh("gemma2")
    config: Any = gemma.model.config
    cap = config.final_logit_softcapping
    gemma.embedding.weight.mul_(20)  # which is the head, too
    batch = collate([tokenise(gemma.tokenizer, *PAIRS[0])], pad_id=0)
    logits, _ = Split(gemma, 2, PrefixCache()).logits(batch)
    assert 0.99 * cap < float(logits.abs().max()) <= cap
    torch.testing.assert_close(logits, full_logits(gemma, *PAIRS[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("layer", [0, 2, 3])
@torch.no_grad()
def test_site_when_something_is_added_to_an_ffn_then_logits_match_the_changed_model(
    backbone: Backbone, padding_side: PaddingSide, layer: int
) -> None:
    rows = [tokenise(backbone.tokenizer, *pair) for pair in PAIRS]
    batch = collate(rows, pad_id=pad_id(backbone.tokenizer), padding_side=padding_side)
    site = Site(backbone, layer, backbone.ffn_path(layer), PrefixCache())

    inputs, output = site.frozen(batch)
    logits = site.per_token(
        lambda each: each, batch, output + inputs.roll(1, -1)
    )  # a bypass of rank D

    ffn = backbone.model.get_submodule(backbone.ffn_path(layer))
    ffn.register_forward_hook(lambda module, given, result: result + given[0].roll(1, -1))
    expected = torch.cat([full_logits(backbone, *pair) for pair in PAIRS])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_per_token_when_rows_are_cut_then_so_are_logits_and_the_result_is_the_same(
    backbone: Backbone,
) -> None:
    """Three rows one by one: no more logits exist at a time than those of the longest target."""
    rows = [tokenise(backbone.tokenizer, *pair) for pair in PAIRS]
    batch = collate(rows, pad_id=pad_id(backbone.tokenizer))
    labels = labels_of(batch)
    weights = torch.arange(1.0, len(labels) + 1)
    split = Split(backbone, 2, PrefixCache())
    seen: list[int] = []

    def weighted(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return token_losses(logits, labels) * weights

    results, gradients = [], []
    for limit in (None, 1):
        backbone.micro_batch.limit = limit
        hidden = split.hidden(batch).requires_grad_(True)
        found = split.per_token(weighted, batch, labels, weights, hidden=hidden)
        found.sum().backward()
        results.append(found.detach())
        gradients.append(hidden.grad)
    backbone.micro_batch.limit = None
    targets = [len(row.ids) - row.prompt_length for row in rows]
    assert seen[0] == sum(targets)
    assert seen[1:] == [*targets, *targets[::-1]]  # forward, and once more on the way back
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prefix_cache_when_a_prompt_returns_in_another_batch_then_it_is_not_computed_again(
    llama: Backbone,
) -> None:
    cache = PrefixCache()
    split = Split(llama, 2, cache)
    rows = [tokenise(llama.tokenizer, *pair) for pair in PAIRS]
    split.hidden(collate(rows, pad_id=0))
    assert (cache.hits, cache.misses) == (0, 3)
    alone = split.hidden(collate(rows[1:2], pad_id=0, padding_side="left"))
    assert (cache.hits, cache.misses) == (1, 3)
    assert alone.shape == (1, len(rows[1].ids), llama.hidden_size)


@torch.no_grad()
def test_hidden_starts_at_the_highest_layer_that_another_split_has_passed(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four layers the states entering the third are kept on the way to the fourth."""
    cache, rows = PrefixCache(), [tokenise(llama.tokenizer, *pair) for pair in PAIRS]
    ran: list[tuple[int, int]] = []
    made = Split._part

    def noted(split: Split, first: int, stop: int) -> torch.nn.Module:
        ran.append((first, stop))
        return made(split, first, stop)

    monkeypatch.setattr(Split, "_part", noted)
    assert llama.num_layers == 4
    Split(llama, 2, cache).hidden(collate(rows[:2], pad_id=0))
    found = Split(llama, 3, cache).hidden(collate(rows, pad_id=0))
    assert ran == [(0, 2), (2, 3), (0, 2), (2, 3)]  # two rows go on, the third begins
    expected = Split(llama, 3, PrefixCache(0.0)).hidden(collate(rows, pad_id=0))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    ran.clear()
    Split(llama, 2, cache).hidden(collate(rows, pad_id=0))
    assert ran == []  # the third row's were kept on its way up


def test_prefix_cache_when_over_budget_then_drops_the_least_recently_used() -> None:
    cache = PrefixCache(max_gib=2 * 400 / 2**30)  # room for two states of 100 floats
    states = torch.zeros(100, 1)
    for name in (b"a", b"b"):
        cache.put(("x", 0, name), states)
    assert cache.get(("x", 0, b"a")) is not None  # now b is the oldest
    cache.put(("x", 0, b"c"), states)
    assert cache.get(("x", 0, b"b")) is None
    assert cache.get(("x", 0, b"a")) is not None


@torch.no_grad()
def test_split_when_a_layer_above_is_replaced_then_it_sees_the_new_one(llama: Backbone) -> None:
    split = Split(llama, 2, PrefixCache())
    batch = collate([tokenise(llama.tokenizer, *PAIRS[0])], pad_id=0)
    before, _ = split.logits(batch)
    layer = llama.model.get_submodule("model.layers.2.mlp")
    layer.down_proj.weight.mul_(2.0)
    after, _ = split.logits(batch)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, full_logits(llama, *PAIRS[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_decode_token_by_token_equals_the_full_forward(
    backbone: Backbone, padding_side: PaddingSide
) -> None:
    tokenizer = backbone.tokenizer
    prompts = [tokenise(tokenizer, prompt) for prompt, _ in PAIRS]
    batch = collate(prompts, pad_id=0, padding_side=padding_side, scores_last=True)
    split = Split(backbone, 2, PrefixCache())
    logits, state = split.logits(batch, DecodeState())
    grown = [list(row.ids) for row in prompts]
    for _ in range(3):
        tokens = logits.argmax(-1)
        for ids, token in zip(grown, tokens.tolist(), strict=True):
            ids.append(token)
        step = collate(
            [type(prompts[0])((token,), 1) for token in tokens.tolist()], pad_id=0, scores_last=True
        )
        logits, state = split.logits(step, state)
        for row, ids in enumerate(grown):
            expected = backbone.model(input_ids=torch.tensor([ids])).logits[0, -1]
            torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=0)


WINDOW = 5  # shorter than every prompt of PAIRS
MIXED = {
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
# Not Gemma 2: its attention cannot be computed in float64; its windows are those of its tiny model.
WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "phi3": ("phi3", {"sliding_window": WINDOW}),
    "qwen2_upper": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen2_mixed": ("qwen2", MIXED),
    "qwen3_mixed": ("qwen3", MIXED),
    "gemma3": ("gemma3_text", {"sliding_window": WINDOW}),
}


@pytest.fixture(params=WINDOWED)
def windowed(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """A tiny backbone some of whose layers see a few tokens back only."""
    family, values = WINDOWED[request.param]
    backbone = load_backbone(save_tiny(family, tmp_path / "model", **values))
    backbone.model.double()  # rounding must not hide a token that is seen or not
    return backbone


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_split_when_a_window_is_shorter_than_the_row_then_every_cut_equals_the_full_forward(
    windowed: Backbone, padding_side: PaddingSide
) -> None:
    rows = [tokenise(windowed.tokenizer, *pair) for pair in PAIRS]
    assert min(len(row.ids) for row in rows) > WINDOW
    batch = collate(rows, pad_id=pad_id(windowed.tokenizer), padding_side=padding_side)
    expected = torch.cat([full_logits(windowed, *pair) for pair in PAIRS])
    for first_layer in range(windowed.num_layers + 1):
        logits, _ = Split(windowed, first_layer, PrefixCache()).logits(batch)
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    for layer in range(windowed.num_layers):
        site = Site(windowed, layer, windowed.ffn_path(layer), PrefixCache())
        _, output = site.frozen(batch)
        torch.testing.assert_close(
            site.per_token(lambda each: each, batch, output), expected, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_decode_when_a_window_is_shorter_than_the_row_then_padding_takes_no_place_in_it(
    windowed: Backbone, padding_side: PaddingSide
) -> None:
    prompts = [tokenise(windowed.tokenizer, prompt) for prompt, _ in PAIRS]
    assert len({len(row.ids) for row in prompts}) > 1
    batch = collate(prompts, pad_id=0, padding_side=padding_side, scores_last=True)
    split = Split(windowed, 2, PrefixCache())
    logits, state = split.logits(batch, DecodeState())
    grown = [list(row.ids) for row in prompts]
    for _ in range(2 * WINDOW):
        for row, ids in enumerate(grown):
            expected = windowed.model(input_ids=torch.tensor([ids])).logits[0, -1]
            torch.testing.assert_close(logits[row], expected, atol=1e-6, rtol=0)
        tokens = logits.argmax(-1).tolist()
        for ids, token in zip(grown, tokens, strict=True):
            ids.append(token)
        step = collate([Row((token,), 1) for token in tokens], pad_id=0, scores_last=True)
        logits, state = split.logits(step, state)
