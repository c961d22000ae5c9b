"""LEMoE's adaptor, routers and loss against the slow reference."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden import reference_lemoe as reference
from trainables.moe.adaptor import Adaptor
from trainables.moe.experts import Bank, FfnBank, FrozenFfn, LoraBank
from trainables.moe.routers import HiddenRouter, LearnedKeys, with_anchor
from trainables.optimise import TargetRows, target_loss

WIDTH, FFN_WIDTH, RANK = 5, 7, 3


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Gated(nn.Module):
    """A FFN of LLaMA's shape in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, FFN_WIDTH, bias=False, dtype=torch.float64)
        self.up = nn.Linear(WIDTH, FFN_WIDTH, bias=False, dtype=torch.float64)
        self.down = nn.Linear(FFN_WIDTH, WIDTH, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def bank_of(kind: str, frozen: Gated, num_experts: int, seed: int) -> Bank:
    bank: Bank
    if kind == "ffn":
        bank = FfnBank(num_experts, FrozenFfn(frozen.up.weight, nn.functional.silu, frozen.gate))
    else:
        generator = torch.Generator().manual_seed(seed)
        bank = LoraBank(
            num_experts, WIDTH, RANK, lora_alpha=6.0, generator=generator, like=frozen.up.weight
        )
    with torch.no_grad():
        bank.inner.copy_(numbers(*bank.inner.shape, seed=seed))
        bank.outer.copy_(numbers(*bank.outer.shape, seed=seed + 1))
    return bank


def reference_experts(bank: Bank, frozen: Gated) -> list[reference.Expert]:
    inner, outer = bank.inner.detach().numpy(), bank.outer.detach().numpy()
    if isinstance(bank, FfnBank):
        gate = frozen.gate.weight.detach().numpy()
        return [reference.ffn_expert(gate, a, b.T) for a, b in zip(inner, outer, strict=True)]
    scale = 6.0 / RANK
    return [reference.lora_expert(a, b.T, scale) for a, b in zip(inner, outer, strict=True)]


@pytest.mark.parametrize("kind", ["ffn", "lora"])
@pytest.mark.parametrize(("num_prompts", "num_tokens"), [(1, 1), (6, 3)])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_adaptor_when_routed_per_prompt_then_equals_equation_12(
    kind: str, num_prompts: int, num_tokens: int, top_k: int
) -> None:
    frozen = Gated()
    adaptor = Adaptor(frozen, bypass_weight=0.7)
    banks = [bank_of(kind, frozen, 2, seed=1), bank_of(kind, frozen, 3, seed=3)]
    for bank in banks:
        adaptor.add_bank(bank)
    x = numbers(num_prompts, num_tokens, WIDTH, seed=5)
    keys, v = numbers(5, WIDTH, seed=6), numbers(num_prompts, WIDTH, seed=7)
    gates = np.stack([reference.gates(row.numpy(), keys.numpy(), top_k) for row in v])
    with adaptor.routed(torch.from_numpy(gates)):
        actual = adaptor(x).detach().numpy()
    experts = [e for bank in banks for e in reference_experts(bank, frozen)]
    without = frozen(x).detach().numpy()
    for row in range(num_prompts):
        for token in range(num_tokens):
            expected = reference.adaptor(
                without[row, token], x[row, token].numpy(), gates[row], experts, 0.7
            )
            np.testing.assert_allclose(actual[row, token], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["ffn", "lora"])
@pytest.mark.parametrize("uses_anchor", [False, True])
def test_adaptor_when_routed_per_token_then_equals_equation_9(kind: str, uses_anchor: bool) -> None:
    frozen = Gated()
    adaptor = Adaptor(frozen, bypass_weight=1.0)
    banks = [bank_of(kind, frozen, 1, seed=1), bank_of(kind, frozen, 3, seed=3)]
    x, anchor = numbers(4, 3, WIDTH, seed=5), numbers(4, WIDTH, seed=6)
    router = HiddenRouter(x, 2, anchor_size=WIDTH if uses_anchor else 0)
    generator = torch.Generator().manual_seed(8)
    for bank in banks:
        adaptor.add_bank(bank)
        router.add(torch.zeros(bank.num_experts, WIDTH), generator)

    def inputs(hidden: Tensor) -> Tensor:
        return with_anchor(hidden, anchor) if uses_anchor else hidden

    with adaptor.routed(lambda hidden: router.gates(inputs(hidden))):
        actual = adaptor(x).detach().numpy()
    experts = [e for bank in banks for e in reference_experts(bank, frozen)]
    without, weight = frozen(x).detach().numpy(), router.weight.detach().numpy()
    for row in range(4):
        for token in range(3):
            own = x[row, token].numpy()
            seen = np.concatenate([own, anchor[row].numpy()]) if uses_anchor else own
            gates = reference.token_gates(seen, weight, 2)
            expected = reference.adaptor(without[row, token], own, list(gates), experts, 1.0)
            np.testing.assert_allclose(actual[row, token], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("top_k", [1, 2, 9])
@pytest.mark.parametrize("projection_size", [1, 4])
def test_learned_keys_gates_equal_equations_10_and_11(top_k: int, projection_size: int) -> None:
    like = numbers(2, WIDTH)
    generator = torch.Generator().manual_seed(1)
    router = LearnedKeys(like, projection_size, top_k, generator)
    router.add(numbers(2, WIDTH, seed=2), generator)
    router.add(numbers(1, WIDTH, seed=3), generator)
    e = 3.0 * numbers(6, WIDTH, seed=4)
    actual = router.gates(e).detach().numpy()
    down, up = router.down.detach().numpy(), router.up.detach().numpy()
    for row in range(6):
        v = reference.query(e[row].numpy(), down, up)
        expected = reference.gates(v, router.keys.detach().numpy(), top_k)
        np.testing.assert_allclose(actual[row], expected, rtol=1e-10, atol=1e-14)


def test_target_loss_when_targets_are_equally_long_then_is_equation_13_per_token() -> None:
    logits = numbers(3 * 2, 4)
    targets = [[0, 3], [1, 1], [2, 0]]
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    actual = float(target_loss(logits, torch.tensor(targets).flatten(), TargetRows.of(rows)))
    pairs = [logits[2 * i : 2 * i + 2].numpy() for i in range(3)]
    # Eq. 13 sums over 3 pairs of 2 tokens. float32 log-softmax: 6 significant digits.
    assert actual == pytest.approx(reference.task_loss(pairs, targets) / 6, rel=1e-6)
