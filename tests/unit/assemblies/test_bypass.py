import pytest
import torch
from torch import Tensor, nn

from trainables.assemblies.bypass import Bypass
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, PromptBatch
from trainables.moe.experts import FrozenFfn, LinearBank
from trainables.prompts import collate, tokenise


def numbers(bank: LinearBank) -> LinearBank:
    generator = torch.Generator().manual_seed(1)
    nn.init.normal_(bank.outer, std=0.05, generator=generator)
    return bank


def make_bank(num_experts: int, frozen: FrozenFfn) -> LinearBank:
    return numbers(LinearBank(num_experts, frozen, reads_hidden=False))


def built(backbone: Backbone, layer: int = 2) -> Bypass:
    return Bypass(backbone, layer, make_bank, PrefixCache(), num_experts=2, bypass_weight=0.5)


def prompts_of(backbone: Backbone) -> PromptBatch:
    lines = ("Where was Ada Quell born?", "Who leads Oslo Bay?")
    return collate([tokenise(backbone.tokenizer, line, "Vesper") for line in lines], pad_id=0)


GATES = torch.tensor([[1.0, 0.0], [0.25, 0.75]])


@torch.no_grad()
def logits(bypass: Bypass, prompts: PromptBatch) -> Tensor:
    return bypass.logits(prompts, None, GATES)[0]


@torch.no_grad()
def test_per_token_equals_a_forward_pass_along_the_same_route(backbone: Backbone) -> None:
    bypass, prompts = built(backbone), prompts_of(backbone)
    plain = logits(bypass, prompts)
    bypass.attach()
    frozen = bypass.frozen(prompts)
    expected = logits(bypass, prompts)
    actual = bypass.per_token(lambda each: each, prompts, frozen, GATES)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(actual, plain, atol=1e-2)
    bypass.remove()
    assert torch.equal(logits(bypass, prompts), plain)


def test_thaw_and_freeze_move_requires_grad_of_the_experts_alone(llama: Backbone) -> None:
    bypass = built(llama)
    bypass.attach()
    parameters = bypass.thaw()
    assert set(parameters) == {"outer"}
    trained = [name for name, p in llama.model.named_parameters() if p.requires_grad]
    assert len(trained) == 1
    parameters["outer"].grad = torch.ones_like(parameters["outer"])
    bypass.freeze()
    assert not any(p.requires_grad for p in llama.model.parameters())
    assert parameters["outer"].grad is None
    bypass.remove()


@pytest.mark.parametrize("is_attached", [True, False])
def test_load_brings_back_the_experts_and_whether_there_are_any(
    llama: Backbone, is_attached: bool
) -> None:
    saved, loaded = built(llama), built(llama)
    if is_attached:
        saved.attach()
        nn.init.constant_(saved.thaw()["outer"], 0.1)
    prompts = prompts_of(llama)
    expected, state = logits(saved, prompts), saved.state()
    saved.remove()
    loaded.attach()
    loaded.load(state)
    assert loaded.is_attached == is_attached
    assert torch.equal(logits(loaded, prompts), expected)
    loaded.remove()


@pytest.mark.parametrize("layer", [-1, 4])
def test_bypass_when_the_backbone_has_no_such_layer_then_says_so(
    llama: Backbone, layer: int
) -> None:
    with pytest.raises(ConfigError, match=rf"method.edit_layer is {layer}; allowed: 0 to 3"):
        built(llama, layer)
