"""MEMoE v1's gates, adaptor and routing inputs against the slow reference."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import tiny_tokenizer
from tests.golden import reference_memoe_v1 as reference
from tests.golden.reference_lemoe import silu
from trainables.moe.adaptor import Adaptor
from trainables.moe.embeddings import PromptEmbedder
from trainables.moe.entities import EntityFinder
from trainables.moe.experts import FfnBank, FrozenFfn, LinearBank
from trainables.moe.losses import balance_loss
from trainables.moe.routers import HiddenRouter
from trainables.moe.routing import PromptRouting, Reads
from trainables.prompts import collate, tokenise

WIDTH, FFN_WIDTH, NUM_EXPERTS = 4, 6, 4
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


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

    def parts(self) -> FrozenFfn:
        return FrozenFfn(self.up.weight, nn.functional.silu, self.gate)


def router_of(num_inputs: int, top_k: int, num_experts: int = NUM_EXPERTS) -> HiddenRouter:
    router = HiddenRouter(numbers(1, num_inputs), top_k)
    router.add(numbers(num_experts, num_inputs), torch.Generator().manual_seed(1))
    return router


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("noise_size", [0.0, 1.5])
def test_gates_equal_equation_9(top_k: int, noise_size: float) -> None:
    router = router_of(WIDTH, top_k)
    R, noise = 2.0 * numbers(7, WIDTH, seed=2), noise_size * numbers(7, NUM_EXPERTS, seed=3)
    actual = router.gates_of(router.scores(R) + noise).detach().numpy()
    W_g = router.weight.detach().numpy()
    for row in range(7):
        expected = reference.gates(W_g, R[row].numpy(), noise[row].numpy(), top_k)
        np.testing.assert_allclose(actual[row], expected, **CLOSE)


@pytest.mark.parametrize("reads_hidden", [False, True])
@pytest.mark.parametrize("top_k", [1, 3])
def test_linear_experts_equal_equations_10_and_11(reads_hidden: bool, top_k: int) -> None:
    frozen = Gated()
    bank = LinearBank(NUM_EXPERTS, frozen.parts(), reads_hidden=reads_hidden)
    with torch.no_grad():
        bank.outer.copy_(numbers(*bank.outer.shape, seed=4))
    adaptor, router = Adaptor(frozen, bypass_weight=0.6), router_of(WIDTH, top_k)
    adaptor.add_bank(bank)
    x = numbers(2, 3, WIDTH, seed=5)
    with adaptor.routed(router.gates):
        actual = adaptor(x).detach().numpy()
    hidden = (nn.functional.silu(frozen.gate(x)) * frozen.up(x)).detach().numpy()
    without, W_g = frozen(x).detach().numpy(), router.weight.detach().numpy()
    W = [weight.T for weight in bank.outer.detach().numpy()]
    for row in range(2):
        for token in range(3):
            own = x[row, token].numpy()
            G = reference.gates(W_g, own, np.zeros(NUM_EXPERTS), top_k)
            seen = hidden[row, token] if reads_hidden else own
            expected = reference.adaptor(without[row, token], 0.6, G, W, seen)
            np.testing.assert_allclose(actual[row, token], expected, **CLOSE)


def test_soft_merging_equals_one_expert_of_merged_parameters() -> None:
    frozen = Gated()
    bank = FfnBank(NUM_EXPERTS, frozen.parts(), merges_parameters=True)
    with torch.no_grad():
        bank.inner.copy_(numbers(*bank.inner.shape, seed=6))
        bank.outer.copy_(numbers(*bank.outer.shape, seed=7))
    router, x = router_of(WIDTH, NUM_EXPERTS), numbers(2, 3, WIDTH, seed=8)
    actual = bank(x, router.gates(x)).detach().numpy()
    W_g, gate = router.weight.detach().numpy(), frozen.gate.weight.detach().numpy()
    ups, downs = bank.inner.detach().numpy(), bank.outer.detach().numpy()
    for row in range(2):
        for token in range(3):
            own = x[row, token].numpy()
            G = reference.gates(W_g, own, np.zeros(NUM_EXPERTS), NUM_EXPERTS)
            expert = reference.merged_expert(G, gate, ups, [w.T for w in downs], silu)
            np.testing.assert_allclose(actual[row, token], expert(own), **CLOSE)


PROMPTS = ("Where was Ada Quell born?", "Who leads Lumen Works in Oslo Bay?", "Who wrote it?")
# Names as NLTK would find them; the last prompt has none, so that all of it stands in.
NAMES = (("Ada Quell",), ("Lumen Works", "Oslo Bay"), ())


def chunker(text: str) -> Sequence[tuple[int, int]]:
    names = [name for group in NAMES for name in group if name in text]
    return [(text.index(name), text.index(name) + len(name)) for name in names]


@pytest.mark.parametrize("routing_input", ["token", "sentence", "anchor"])
def test_routing_inputs_equal_equations_12_14_and_15(
    routing_input: Literal["token", "sentence", "anchor"],
) -> None:
    tokenizer = tiny_tokenizer()
    table = nn.Embedding(len(tokenizer), WIDTH)
    finder = EntityFinder(tokenizer, chunker)
    embedder = PromptEmbedder(table, finder if routing_input == "anchor" else None)
    reads = Reads.HIDDEN if routing_input == "token" else Reads.HIDDEN_AND_ANCHOR
    router = router_of(WIDTH if routing_input == "token" else 2 * WIDTH, 1)
    routing = PromptRouting(router, embedder, reads, rescales=False)
    rows = [tokenise(tokenizer, prompt, "Bar City") for prompt in PROMPTS]
    prompts = collate(rows, pad_id=0, padding_side="left")
    x = numbers(*prompts.input_ids.shape, WIDTH, seed=9)
    actual = routing.scores(routing.features(prompts), x).detach().numpy()
    weights, W_g = table.weight.detach().double().numpy(), router.weight.detach().numpy()
    for row, (line, names) in enumerate(zip(rows, NAMES, strict=True)):
        ids = line.ids[: line.prompt_length]
        groups = [ids_of(ids, tokenizer, name) for name in names] or [ids]
        for token in range(x.shape[1]):
            own = x[row, token].numpy()
            if routing_input == "token":
                R = reference.r_token(own)
            elif routing_input == "sentence":
                R = reference.r_sentence(own, weights, ids)
            else:
                R = reference.r_anchor(own, reference.anchor_embedding(weights, groups))
            # The table and its means are float32: 7 digits, of sums of 8 numbers of size 1.
            expected = reference.product(W_g, R)
            np.testing.assert_allclose(actual[row, token], expected, rtol=1e-5, atol=1e-6)


def ids_of(ids: Sequence[int], tokenizer: object, name: str) -> list[int]:
    """The shortest run of tokens that holds `name`."""
    runs = [ids[i:j] for i in range(len(ids)) for j in range(i + 1, len(ids) + 1)]
    decode = tokenizer.decode  # type: ignore[attr-defined]
    return list(min((run for run in runs if name in decode(run)), key=len))


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_balance_loss_equals_the_auxiliary_loss_of_switch_transformers(top_k: int) -> None:
    probabilities = (2.0 * numbers(9, NUM_EXPERTS, seed=10)).softmax(-1)
    expected = reference.auxiliary_loss(probabilities.numpy(), top_k)
    assert float(balance_loss(probabilities, top_k)) == pytest.approx(expected, rel=1e-12)
