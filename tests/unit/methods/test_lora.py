from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit
from trainables.methods.lora.dropout import Dropout, hashed
from trainables.methods.lora.low_rank import LowRank, adapted_paths
from trainables.methods.lora.method import Config, Lora
from trainables.parallel.micro_batch import MicroBatch
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators

EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)
MORE_EDITS = (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),)


def config(**changes: object) -> Config:
    values = {
        "modules": "attention",
        "adapter": "one",
        "lora_rank": 2,
        "lora_alpha": 6.0,
        "dropout": 0.1,
        "edit_lr": 0.01,
        "num_steps": 6,
        "stop_loss": None,
    }
    return Config(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def method_of(settings: Config, backbone: Backbone, artefacts: Artefacts) -> Lora:
    return Lora(settings, backbone, artefacts, trial_generators(0))


def edit(method: Lora, backbone: Backbone, edits: tuple[Edit, ...] = EDITS) -> None:
    method.begin(edit_batch(backbone.tokenizer, edits, end=False))
    method.advance(method.num_steps)
    method.finish()


@torch.no_grad()
def answers(method: Lora, backbone: Backbone) -> Tensor:
    return method.logits(edit_batch(backbone.tokenizer, EDITS, end=False).tokens)[0]


def beside(weight: list[list[float]], rank: int, scale: float) -> LowRank:
    frozen = nn.Linear(len(weight[0]), len(weight), bias=False)
    with torch.no_grad():
        frozen.weight.copy_(torch.tensor(weight))
    return LowRank(
        frozen,
        rank,
        scale,
        is_transposed=False,
        home=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        drop=lambda x: x,
    )


def test_low_rank_output_by_hand() -> None:
    made = beside([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]], rank=1, scale=3.0)
    x = torch.tensor([[[1.0, 1.0]]])
    assert torch.equal(made(x), torch.tensor([[[3.0, 7.0, 1.0]]]))  # B is 0
    with torch.no_grad():
        made.inner.copy_(torch.tensor([[1.0, 1.0]]))
        made.outer.copy_(torch.tensor([[1.0], [2.0], [-1.0]]))
    # A x = 2, B 2 = [2, 4, -2], three times that beside W x
    assert torch.equal(made(x), torch.tensor([[[9.0, 19.0, -5.0]]]))


def test_low_rank_when_kept_then_adds_the_same_and_learns_beside_it() -> None:
    made = beside([[1.0, 0.0], [0.0, 1.0]], rank=1, scale=1.0)
    with torch.no_grad():
        made.inner.copy_(torch.tensor([[1.0, 2.0]]))
        made.outer.copy_(torch.tensor([[1.0], [1.0]]))
    x = torch.tensor([[[1.0, 1.0]]])
    made.keep()
    assert torch.equal(made(x), torch.tensor([[[4.0, 4.0]]]))  # x and A x = 3 twice
    with torch.no_grad():
        made.inner.copy_(torch.tensor([[0.0, 1.0]]))
        made.outer.copy_(torch.tensor([[10.0], [0.0]]))
    assert torch.equal(made(x), torch.tensor([[[14.0, 4.0]]]))


def test_low_rank_when_of_full_rank_then_it_can_be_any_change_of_the_weight() -> None:
    made, generator = beside([[1.0, 2.0], [3.0, 4.0]], rank=2, scale=0.5), torch.Generator()
    change, x = torch.randn(2, 2, generator=generator), torch.randn(3, 4, 2, generator=generator)
    with torch.no_grad():
        made.inner.copy_(torch.eye(2))
        made.outer.copy_(2 * change)
    frozen = made.frozen.get_parameter("weight")
    torch.testing.assert_close(made(x), x @ (frozen + change).T)


@pytest.mark.parametrize(
    ("family", "attention", "ffn"),
    [
        ("llama", ["self_attn.q_proj", "self_attn.v_proj"], ["gate_proj", "up_proj", "down_proj"]),
        ("gpt2", ["attn.c_attn"], ["c_fc", "c_proj"]),
        ("bloom", ["self_attention.query_key_value"], ["dense_h_to_4h", "dense_4h_to_h"]),
        ("phi3", ["self_attn.qkv_proj"], ["gate_up_proj", "down_proj"]),
    ],
)
def test_adapted_paths_are_those_of_each_layer(
    family: str, attention: list[str], ffn: list[str], fresh: object
) -> None:
    backbone: Backbone = fresh(family)  # type: ignore[operator]
    layers = [backbone.layer_path(layer) for layer in range(4)]
    assert adapted_paths(backbone, "attention") == [f"{at}.{p}" for at in layers for p in attention]
    assert adapted_paths(backbone, "ffn") == [f"{at}.mlp.{name}" for at in layers for name in ffn]


@pytest.mark.parametrize("modules", ["attention", "ffn"])
def test_lora_when_edited_then_answers_as_a_model_with_the_products_added_to_its_weights(
    modules: str, backbone: Backbone, artefacts: Artefacts, fresh: object
) -> None:
    other: Backbone = fresh(backbone.family.name)  # type: ignore[operator]
    method = method_of(config(modules=modules), backbone, artefacts)
    edit(method, backbone)
    matrices = method.state().tensors
    changed = 0
    for path in adapted_paths(other, modules):  # type: ignore[arg-type]
        product = 3.0 * matrices[f"maps/{path}/outer"] @ matrices[f"maps/{path}/inner"]  # 6 / 2
        weight = other.model.get_parameter(f"{path}.weight")
        with torch.no_grad():
            weight.add_(product.T if other.family.is_transposed else product)
        changed += bool(product.any())
    assert changed == len(adapted_paths(other, modules))  # type: ignore[arg-type]
    plain = method_of(config(), other, artefacts)
    torch.testing.assert_close(answers(method, backbone), answers(plain, other), atol=1e-4, rtol=0)


def test_lora_when_maps_are_new_then_the_backbone_answers_bit_for_bit(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = method_of(config(), llama, artefacts)
    before = answers(method, llama)
    method.begin(edit_batch(llama.tokenizer, EDITS, end=False))
    assert torch.equal(answers(method, llama), before)
    method.advance(1)
    assert not torch.equal(answers(method, llama), before)


@pytest.mark.parametrize("adapter", ["one", "one_per_batch"])
def test_lora_in_a_second_batch_goes_on_or_starts_anew(
    adapter: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = method_of(config(adapter=adapter), llama, artefacts)
    edit(method, llama)
    path = f"maps/{adapted_paths(llama, 'attention')[0]}"
    first = {key: value.clone() for key, value in method.state().tensors.items()}
    after_first = answers(method, llama)
    method.begin(edit_batch(llama.tokenizer, MORE_EDITS, end=False))
    torch.testing.assert_close(answers(method, llama), after_first, atol=1e-5, rtol=0)
    method.advance(6)
    second = method.state().tensors
    if adapter == "one":
        assert f"{path}/kept_inner" not in second
        assert not torch.equal(second[f"{path}/inner"], first[f"{path}/inner"])
    else:
        assert torch.equal(second[f"{path}/kept_inner"], first[f"{path}/inner"])
        assert torch.equal(second[f"{path}/kept_outer"], first[f"{path}/outer"])
        assert second[f"{path}/outer"].shape == first[f"{path}/outer"].shape


def trained(share: float, llama: Backbone, artefacts: Artefacts) -> Tensor:
    method = method_of(config(dropout=share), llama, artefacts)
    edit(method, llama)
    found = answers(method, llama)
    method.remove()
    return found


def test_dropout_takes_part_in_training(llama: Backbone, artefacts: Artefacts) -> None:
    assert not torch.equal(trained(0.3, llama, artefacts), trained(0.0, llama, artefacts))


def dropout(share: float = 0.25) -> Dropout:
    made = Dropout(share, MicroBatch())
    made.seed = 7
    return made


def test_dropout_leaves_out_its_share_and_scales_the_rest() -> None:
    x = torch.ones(20, 50, 100)
    found = dropout()(x, "a")
    # Of 100,000 numbers 25,000 with a standard deviation of 137.
    assert abs(int((found == 0).sum()) - 25_000) < 5 * 137
    assert found.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_dropout_when_off_then_nothing_changes() -> None:
    x, made = torch.randn(2, 3, 4), dropout()
    made.seed = None
    assert made(x, "a") is x
    assert dropout(0.0)(x, "a") is x


def test_dropout_when_rows_run_in_pieces_then_leaves_out_the_same() -> None:
    micro_batch, x = MicroBatch(limit=2), torch.ones(5, 3, 4)
    made = Dropout(0.25, micro_batch)
    made.seed = 7
    in_pieces = micro_batch.apply(lambda rows: made(rows, "a"), x)
    assert torch.equal(in_pieces, dropout()(x, "a"))


def test_dropout_when_rows_run_packed_then_leaves_out_the_same() -> None:
    x, places = torch.ones(3, 4, 5), torch.tensor([[0, 1, 2, 3], [8, 4, 5, 9]])
    micro_batch = MicroBatch()
    made = Dropout(0.25, micro_batch)
    made.seed = 7
    with micro_batch.packed(places):
        found = made(x.flatten(0, 1)[places], "a")
    assert torch.equal(found, dropout()(x, "a").flatten(0, 1)[places])


def test_lora_with_dropout_when_rows_are_packed_then_it_learns_the_same(
    fresh: Callable[[str], Backbone], artefacts: Artefacts
) -> None:
    """A micro-batch is never packed."""
    far = Edit("Of which of all the cities in the south is Fooland the queen?", "Bar", "Fooland")
    found = []
    for limit in (None, 1):
        backbone = fresh("llama")
        backbone.micro_batch.limit = limit
        method = method_of(config(dropout=0.3), backbone, artefacts)
        edit(method, backbone, (*EDITS, far))
        found.append(answers(method, backbone))
        method.remove()
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", ["seed", "place"])
def test_dropout_of_another_step_or_map_has_nothing_to_do_with_it(change: str) -> None:
    x, made = torch.ones(20, 50, 100), dropout()
    first = made(x, "a") == 0
    made.seed = 8 if change == "seed" else 7
    second = made(x, "b" if change == "place" else "a") == 0
    # Both leave a number out once in 16 times: 6,250 of 100,000, standard deviation 77.
    assert abs(int((first & second).sum()) - 6_250) < 5 * 77


def test_hashed_as_in_whole_numbers_of_python() -> None:
    def mixed(value: int) -> int:
        value = ((value ^ (value >> 16)) * 0x7FEB352D) % 2**32
        value = ((value ^ (value >> 15)) * 0x846CA68B) % 2**32
        return value ^ (value >> 16)

    seed = 0x1234_5678_9ABC_DEF0
    expected = [mixed((mixed(n ^ 0x9ABC_DEF0) + 0x1234_5678) % 2**32) for n in range(50)]
    assert hashed(torch.arange(50), seed).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules": "mlp"}, "method.modules is 'mlp'; allowed: attention, ffn"),
        ({"adapter": "two"}, "method.adapter is 'two'; allowed: one, one_per_batch"),
        ({"dropout": 1.0}, r"method.dropout is 1.0; it must lie in \[0, 1\)"),
        ({"lora_alpha": 0.0}, "method.lora_alpha is 0.0; it must be above 0"),
        ({"lora_rank": 33}, r"method.lora_rank is 33; it must lie in \[1, 32\]"),
    ],
)
def test_config_when_out_of_range_then_names_the_key(
    changes: dict, message: str, llama: Backbone, artefacts: Artefacts
) -> None:
    with pytest.raises(ConfigError, match=message):
        method_of(config(**changes), llama, artefacts)
