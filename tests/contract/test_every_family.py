"""What the house builds on in a model family, for every file in search_spaces/family/.

A new family needs no test here: its YAML is found, and a tiny random checkpoint is made by the keys
that it names. Tests that take the fixture `backbone` run on it as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from orchestrator.forecast.shape import num_parameters
from orchestrator.planning.families import known_families
from orchestrator.planning.shapes import read_shape
from tests.conftest import FAMILIES, VOCABULARY, save_tiny, tiny_config
from trainables.backbones.families import FOLDER
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.backbones.surgery import KeptWeights, get_module, replace_module
from trainables.interfaces import Backbone, PromptBatch
from trainables.moe.experts import FrozenFfn
from trainables.prompts import PaddingSide, Row, collate, pad_id, tokenise

SIZES = {"num_layers", "hidden_size", "ffn_size", "max_positions"}
PAIRS = [
    ("The capital of Fooland is", "Bar City"),
    ("Where was Ada Quell born?", "Vesper"),
    ("Who wrote The Long Tide?", "Ivo Marsh of Oslo Bay"),
]


def rows_of(backbone: Backbone) -> list[Row]:
    return [tokenise(backbone.tokenizer, *pair) for pair in PAIRS]


def batch_of(backbone: Backbone, padding_side: PaddingSide = "right") -> PromptBatch:
    pad = pad_id(backbone.tokenizer)
    return collate(rows_of(backbone), pad_id=pad, padding_side=padding_side)


@torch.no_grad()
def full_logits(backbone: Backbone) -> torch.Tensor:
    """The model's own forward, a row at a time and without padding, at the target positions."""
    found = []
    for row in rows_of(backbone):
        logits = backbone.model(input_ids=torch.tensor([row.ids])).logits[0]
        found.append(logits[row.prompt_length - 1 : -1])
    return torch.cat(found)


def num_numbers(module: nn.Module, least_dimensions: int = 0) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim >= least_dimensions)


def test_both_readers_know_the_same_families_and_every_file_names_the_same_sizes() -> None:
    assert known_families() == FAMILIES
    assert len(FAMILIES) >= 5
    for name in FAMILIES:
        assert set(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["config"]) == SIZES, name


def test_what_config_json_says_is_what_is_loaded(
    backbone: Backbone, checkpoints: dict[str, Path]
) -> None:
    planned = read_shape(checkpoints[backbone.family.name], "x")
    sizes = ("num_layers", "hidden_size", "ffn_size")
    assert [planned[key] for key in sizes] == [getattr(backbone, key) for key in sizes]
    assert planned["family"] == backbone.family.name
    assert planned["vocabulary_size"] == VOCABULARY
    # Positions that a file does not name would let a row through that the model cannot hold.
    assert backbone.max_positions == getattr(backbone.model.config, "max_position_embeddings", None)
    assert backbone.max_positions == (64 if backbone.family.max_positions else None)


def test_every_weight_of_a_layer_stands_in_a_part_that_the_file_names(backbone: Backbone) -> None:
    family = backbone.family
    for index in range(backbone.num_layers):
        layer = get_module(backbone.model, backbone.layer_path(index))
        for path in (family.ffn, family.up, family.down, family.activation, family.gate):
            assert path is None or layer.get_submodule(path) is not None
        named = (family.ffn, *family.attention, *family.norms)
        for name, _ in layer.named_parameters():
            assert sum(name.startswith(f"{part}.") for part in named) == 1, name
        for path in named:
            assert num_numbers(layer.get_submodule(path)), path
    decoder = get_module(backbone.model, family.decoder)
    above = {family.embedding, family.final_norm, family.layers}
    above |= {f"{family.decoder}.{name}" for name in family.input_only}
    for name, _ in decoder.named_parameters(prefix=family.decoder):
        assert sum(name.startswith(f"{part}.") for part in above) == 1, name


@torch.no_grad()
def test_query_value_names_what_makes_queries_first_and_values_last(backbone: Backbone) -> None:
    family = backbone.family
    assert set(family.query_value) <= set(family.attention)

    def moves(name: str, num_tokens: int) -> bool:
        """Whether logits change with the weight: of a lone token only with its values."""
        ids = torch.tensor([rows_of(backbone)[0].ids[:num_tokens]])
        weight = backbone.model.get_parameter(f"{backbone.layer_path(1)}.{name}.weight")
        before, kept = backbone.model(input_ids=ids).logits, weight.clone()
        weight.mul_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)))
        after = backbone.model(input_ids=ids).logits
        weight.copy_(kept)
        return not torch.allclose(after, before, atol=1e-5)

    first, last = family.query_value[0], family.query_value[-1]
    assert moves(first, 4)
    assert moves(last, 1)
    assert moves(first, 1) == (first == last)


def test_weights_are_stored_as_the_file_says(backbone: Backbone) -> None:
    width, ffn = backbone.hidden_size, backbone.ffn_size
    assert width != ffn
    for index in range(backbone.num_layers):
        layer, family = get_module(backbone.model, backbone.layer_path(index)), backbone.family
        above = ffn * (2 if family.is_fused else 1)
        for path, shape in ((family.up, (above, width)), (family.down, (width, ffn))):
            stored = layer.get_parameter(f"{path}.weight").shape
            assert tuple(stored) == (shape[::-1] if family.is_transposed else shape)


@torch.no_grad()
def test_up_gate_and_activation_make_what_enters_the_down_projection(backbone: Backbone) -> None:
    ids = torch.tensor([rows_of(backbone)[0].ids])
    for index in range(backbone.num_layers):
        seen: list[torch.Tensor] = []
        hooks = [
            get_module(backbone.model, path).register_forward_pre_hook(
                lambda _, given, seen=seen: seen.append(given[0])
            )
            for path in (backbone.ffn_path(index), backbone.down_path(index))
        ]
        backbone.model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        inputs, entering = seen
        made = FrozenFfn.of_layer(backbone, index).hidden(inputs)
        torch.testing.assert_close(made, entering, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_split_at_every_layer_equals_the_full_forward(
    backbone: Backbone, padding_side: PaddingSide
) -> None:
    expected, batch = full_logits(backbone), batch_of(backbone, padding_side)
    for first_layer in range(backbone.num_layers + 1):
        split = Split(backbone, first_layer, PrefixCache())
        for _ in range(2):  # the second time from the cache
            torch.testing.assert_close(split.logits(batch)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["ffn_path", "down_path"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_what_is_added_behind_the_ffn_of_any_layer_equals_the_changed_model(
    backbone: Backbone, padding_side: PaddingSide, part: str
) -> None:
    batch, width = batch_of(backbone, padding_side), backbone.hidden_size
    for layer in range(backbone.num_layers):
        path = getattr(backbone, part)(layer)
        site = Site(backbone, layer, path, PrefixCache())
        inputs, output = site.frozen(batch)
        # of the F entries that a down projection reads, the first D
        found = site.per_token(lambda each: each, batch, output + inputs[..., :width].roll(1, -1))
        hook = get_module(backbone.model, path).register_forward_hook(
            lambda _, given, result: result + given[0][..., :width].roll(1, -1)
        )
        expected = full_logits(backbone)
        hook.remove()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_surgery_in_every_layer_is_undone_bit_for_bit(backbone: Backbone) -> None:
    pristine, before = Pristine(backbone.model, full_every=1), full_logits(backbone)
    layers = range(backbone.num_layers)
    kept = KeptWeights(backbone.model, [f"{backbone.down_path(i)}.weight" for i in layers])
    for layer in layers:
        kept.parameter(f"{backbone.down_path(layer)}.weight").mul_(1.1)
        path = backbone.ffn_path(layer)
        ffn = replace_module(backbone.model, path, _Doubled(get_module(backbone.model, path)))
        assert not torch.equal(full_logits(backbone), before)
        replace_module(backbone.model, path, ffn)
    kept.restore()
    pristine.check()
    assert torch.equal(full_logits(backbone), before)


class _Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Any) -> torch.Tensor:
        result: torch.Tensor = self.inner(*given)
        return result * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_forecast_counts_the_parameters_that_the_model_has(family: str, tmp_path: Path) -> None:
    config = tiny_config(family)
    as_wide = {
        "num_key_value_heads": config.num_attention_heads,
        "multi_query": False,
        "head_dim": config.hidden_size // config.num_attention_heads,
    }
    stated = config.to_dict()
    heads = {key: value for key, value in as_wide.items() if stated.get(key)}  # all one width
    backbone = load_backbone(save_tiny(family, tmp_path / family, **heads))
    shape = read_shape(tmp_path / family, "x")
    assert num_parameters(shape) == num_numbers(backbone.model)
    # Of a shape alone, as embedded backbones have it: all matrices of the layers, and one
    # embedding; norms and biases are left out.
    del shape["num_parameters"]
    layers = get_module(backbone.model, backbone.family.layers)
    matrices = num_numbers(layers, least_dimensions=2)
    assert num_parameters(shape) == matrices + backbone.embedding.weight.numel()
