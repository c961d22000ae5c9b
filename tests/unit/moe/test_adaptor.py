import pytest
import torch
from torch import Tensor, nn

from trainables.moe.adaptor import Adaptor
from trainables.moe.experts import LoraBank


class Residual(nn.Module):
    """A FFN that adds the residual itself, as BLOOM's."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return 2.0 * x + residual


def lora(num_experts: int, value: float) -> LoraBank:
    """Experts x -> value * (sum of x) in every direction."""
    generator = torch.Generator().manual_seed(0)
    bank = LoraBank(num_experts, 2, 1, lora_alpha=None, generator=generator, like=torch.zeros(1))
    nn.init.ones_(bank.inner)
    nn.init.constant_(bank.outer, value)
    return bank


def test_adaptor_without_experts_passes_the_frozen_output_and_all_arguments() -> None:
    x, residual = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    adaptor = Adaptor(Residual(), bypass_weight=1.0)
    assert torch.equal(adaptor(x, residual), Residual()(x, residual))


def test_adaptor_when_experts_are_zero_then_output_is_the_frozen_one_bit_for_bit() -> None:
    x, residual = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    adaptor = Adaptor(Residual(), bypass_weight=1.0)
    adaptor.add_bank(lora(2, 0.0))
    with adaptor.routed(torch.rand(2, 2)):
        assert torch.equal(adaptor(x, residual), Residual()(x, residual))


def test_adaptor_output_by_hand_over_two_banks() -> None:
    adaptor = Adaptor(nn.Identity(), bypass_weight=0.5)
    assert adaptor.add_bank(lora(2, 10.0)) == 0
    assert adaptor.add_bank(lora(1, 100.0)) == 2
    assert adaptor.num_experts == 3
    x = torch.tensor([[[1.0, 2.0]], [[1.0, 0.0]]])
    with adaptor.routed(torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])):
        actual = adaptor(x)
    # Row 0: x + .5 * (.25 * 30 + .75 * 30) = x + 15; row 1: x + .5 * 100 * 1 = x + 50.
    assert torch.equal(actual, torch.tensor([[[16.0, 17.0]], [[51.0, 50.0]]]))


def test_adaptor_when_a_function_routes_then_it_sees_the_input_of_the_ffn() -> None:
    adaptor = Adaptor(nn.Identity(), bypass_weight=1.0)
    adaptor.add_bank(lora(1, 1.0))
    x = torch.tensor([[[1.0, 2.0], [4.0, 0.0]]])
    with adaptor.routed(lambda seen: (seen[..., :1] > 2).float()):
        actual = adaptor(x)
    # The first token's gate is closed; the second adds 4 + 0.
    assert torch.equal(actual, torch.tensor([[[1.0, 2.0], [8.0, 4.0]]]))


def test_adaptor_when_called_past_its_method_then_refuses() -> None:
    adaptor = Adaptor(nn.Identity(), bypass_weight=1.0)
    adaptor.add_bank(lora(1, 1.0))
    with adaptor.routed(torch.ones(1, 1)):
        adaptor(torch.ones(1, 1, 2))
    with pytest.raises(RuntimeError, match="past the edit method"):
        adaptor(torch.ones(1, 1, 2))


def test_adaptor_when_banks_are_frozen_then_only_a_later_bank_gets_gradients() -> None:
    adaptor = Adaptor(nn.Identity(), bypass_weight=1.0)
    adaptor.add_bank(lora(1, 1.0))
    adaptor.freeze_banks()
    adaptor.add_bank(lora(1, 1.0))
    with adaptor.routed(torch.ones(1, 2)):
        adaptor(torch.ones(1, 1, 2)).sum().backward()
    first, second = adaptor.banks
    assert first.inner.grad is None
    assert second.inner.grad is not None
    # d sum / d inner = (1 + 1 output directions of value 1) * x = 2 in each of two places
    assert torch.equal(second.inner.grad, torch.full((1, 1, 2), 2.0))


def test_adaptor_when_loaded_then_answers_as_the_one_that_was_saved() -> None:
    saved = Adaptor(nn.Identity(), bypass_weight=1.0)
    saved.add_bank(lora(2, 3.0))
    saved.add_bank(lora(1, 7.0))
    loaded = Adaptor(nn.Identity(), bypass_weight=1.0)
    loaded.load(saved.state(), lambda num_experts: lora(num_experts, 0.0))
    x, gates = torch.randn(2, 3, 2), torch.rand(2, 3)
    with saved.routed(gates), loaded.routed(gates):
        assert torch.equal(saved(x), loaded(x))
    assert [bank.inner.requires_grad for bank in loaded.banks] == [False, True]
