from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit, EditBatch
from trainables.methods.dense_adapter import Config, DenseAdapter
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators
from trainables.trials.loop import Routed

EDITS = (
    Edit("The capital of Fooland is", "Vesper", "Fooland"),
    Edit("Who wrote The Long Tide?", "Ada Quell", "The Long Tide"),
)
CONFIG = Config(
    edit_layer=2,
    expert="ffn",
    num_experts=3,
    combination="sum",
    init_noise=0.1,
    bypass_weight=1.0,
    edit_lr=5e-3,
    num_steps=4,
    stop_loss=None,
    weight_decay=0.0,
)


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def built(backbone: Backbone, artefacts: Artefacts, **changes: Any) -> DenseAdapter:
    return DenseAdapter(replace(CONFIG, **changes), backbone, artefacts, trial_generators(0))


def batch_of(backbone: Backbone) -> EditBatch:
    return edit_batch(backbone.tokenizer, EDITS, end=True)


def experts_after(method: DenseAdapter, batch: EditBatch, steps: int) -> dict[str, Tensor]:
    method.begin(batch)
    method.advance(steps)
    experts = method.state().inner("experts").tensors
    method.remove()
    return experts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 0}, "method.num_experts is 0; it must be at least 1"),
        ({"combination": "max"}, "method.combination is 'max'; allowed: sum, mean"),
        ({"init_noise": -0.1}, "method.init_noise is -0.1; it must be at least 0"),
        ({"expert": "lora"}, "method.expert is 'lora'; allowed: ffn, dense, down"),
        ({"edit_lr": 0.0}, "method.edit_lr is 0.0; it must be above 0"),
    ],
)
def test_config_when_a_value_is_out_of_range_then_names_key_and_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_dense_adapter_when_experts_are_new_then_the_backbone_answers_bit_for_bit(
    backbone: Backbone, artefacts: Artefacts
) -> None:
    method, batch = built(backbone, artefacts), batch_of(backbone)
    with torch.no_grad():
        before, _ = method.logits(batch.tokens)
        method.begin(batch)
        assert torch.equal(method.logits(batch.tokens)[0], before)
    method.remove()


def test_dense_adapter_when_copies_get_no_noise_then_stay_copies(
    llama: Backbone, artefacts: Artefacts
) -> None:
    batch = batch_of(llama)
    equal = experts_after(built(llama, artefacts, init_noise=0.0), batch, 4)
    for tensor in equal.values():
        torch.testing.assert_close(tensor[1:], tensor[:1].expand_as(tensor[1:]))
    parted = experts_after(built(llama, artefacts), batch, 4)
    assert not torch.allclose(parted["0.outer"][0], parted["0.outer"][1], atol=1e-4)


def test_init_noise_is_in_units_of_the_copied_weights(
    llama: Backbone, artefacts: Artefacts
) -> None:
    inner = experts_after(built(llama, artefacts, init_noise=0.5), batch_of(llama), 0)["0.inner"]
    up = llama.model.get_submodule("model.layers.2.mlp.up_proj").weight
    assert isinstance(up, Tensor)
    noise = inner - up.detach()
    # 3 x 48 x 32 normal numbers: their spread is known to 1 in 96.
    assert float(noise.std() / up.detach().std()) == pytest.approx(0.5, rel=0.04)


@pytest.mark.parametrize(("combination", "factor"), [("sum", 3.0), ("mean", 1.0)])
def test_combination_when_experts_are_equal_then_is_so_many_times_one_expert(
    llama: Backbone, artefacts: Artefacts, combination: str, factor: float
) -> None:
    batch = batch_of(llama)
    one = built(llama, artefacts, num_experts=1, init_noise=0.0, bypass_weight=factor)
    many = built(llama, artefacts, combination=combination, init_noise=0.0)
    with torch.no_grad():
        given = {}
        for method in (one, many):
            method.begin(batch)
            bank = method._bypass.thaw()
            torch.nn.init.constant_(bank["outer"], 0.01)
            given[method], _ = method.logits(batch.tokens)
            method.remove()
    torch.testing.assert_close(given[many], given[one], atol=1e-4, rtol=1e-4)


def test_dense_adapter_has_no_routes(llama: Backbone, artefacts: Artefacts) -> None:
    assert not isinstance(built(llama, artefacts), Routed)
