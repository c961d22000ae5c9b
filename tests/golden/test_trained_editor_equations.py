"""The networks of MEND and MALMEN and their changes of a weight against slow float64 references."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.assemblies.trained_editor.networks import FactorNetworks, NetworkSettings, Scales
from trainables.backbones.hidden_states.module_gradients import ModuleFactors
from trainables.methods.malmen import LeastSquares
from trainables.methods.mend import RankOneSum

from . import reference_trained_editors as reference
from .reference_trained_editors import Floats

BLOCKS: dict[Scales, Callable[[reference.Block, Floats], Floats]] = {
    "inside": reference.mend_block,
    "outside": reference.malmen_block,
}
PATHS = {"a": (5, 3), "b": (5, 3), "c": (2, 4)}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def factors(size_in: int, size_out: int, tokens: int, seed: int = 0) -> ModuleFactors:
    owner = torch.zeros(tokens, dtype=torch.long)
    keys, deltas = numbers(tokens, size_in, seed=seed), 0.1 * numbers(tokens, size_out, seed=seed)
    return ModuleFactors(deltas, keys, owner)


def rows(tensor: Tensor) -> list[Floats]:
    return list(tensor.detach().double().numpy())


def random_networks(scales: Scales, rank: int) -> FactorNetworks:
    """With parameters that nothing would have trained them to."""
    made = FactorNetworks(PATHS, NetworkSettings(rank, 2, scales), torch.Generator())
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=number))
    return made


def blocks_of(made: FactorNetworks, network: int, module: int) -> list[reference.Block]:
    found = []
    for block in made.networks[network].blocks:  # type: ignore[union-attr]
        parts = (block.up, block.down, block.bias, block.scale[module], block.offset[module])
        found.append(reference.Block(*(np.array(part.detach().double()) for part in parts)))
    return found


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("scales", ["inside", "outside"])
def test_pseudo_factors_are_the_blocks_behind_the_normalisation(scales: Scales, rank: int) -> None:
    made = random_networks(scales, rank)
    read = {path: factors(*shape, 6, seed=n) for n, (path, shape) in enumerate(PATHS.items())}
    made.normalise([read])
    # a and b are of one shape: one network, whose mean is over the tokens of both
    z = [
        np.concatenate([key, delta])
        for path in ("a", "b")
        for key, delta in zip(rows(read[path].keys), rows(read[path].deltas), strict=True)
    ]
    for number, path in enumerate(("a", "b")):
        keys, deltas = made.pseudo(path, read[path])
        own = reference.normalised(z)[6 * number : 6 * number + 6]
        for token, row in enumerate(own):
            expected = row
            for block in blocks_of(made, 0, number):
                expected = BLOCKS[scales](block, expected)
            actual = torch.cat([keys[token], deltas[token]]).detach()
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scales", ["inside", "outside"])
def test_an_untrained_network_when_nothing_is_normalised_then_gives_what_enters_it(
    scales: Scales,
) -> None:
    made = FactorNetworks(PATHS, NetworkSettings(4, 2, scales), torch.Generator().manual_seed(1))
    own = factors(5, 3, 4)
    keys, deltas = made.pseudo("b", own)
    torch.testing.assert_close(keys, own.keys)
    torch.testing.assert_close(deltas, own.deltas)
    (keys.sum() + deltas.sum()).backward()  # type: ignore[no-untyped-call]
    # ... and all of it can learn, though its ReLUs stand at 0, but for V, which U hides.
    moved = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    own_names = {name for name, _ in made.named_parameters() if name.startswith("networks.0")}
    hidden = {name for name in own_names if name.endswith(("down", "scale"))}
    assert moved == own_names - hidden


@pytest.mark.parametrize("tokens", [1, 7])
def test_mend_s_change_is_a_sum_of_changes_of_rank_one(tokens: int) -> None:
    own, pseudo = factors(5, 3, tokens), factors(5, 3, tokens, seed=9)
    rule = RankOneSum(2, 0.3)
    found = rule.shift(1, own.keys, (pseudo.keys, pseudo.deltas))
    expected = reference.mend_change(0.3, rows(pseudo.keys), rows(pseudo.deltas))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("size_in", "tokens"), [(5, 1), (5, 4), (3, 9)])
@pytest.mark.parametrize("ridge", [-2.0, 0.0, 3.0])
def test_malmen_s_change_is_the_least_squares_solution(
    size_in: int, tokens: int, ridge: float
) -> None:
    own, pseudo = factors(size_in, 4, tokens), factors(size_in, 4, tokens, seed=9)
    rule = LeastSquares(3, 0.7, ridge)
    found = rule.shift(2, own.keys, (pseudo.keys, pseudo.deltas))
    expected = reference.malmen_change(
        0.7, ridge, rows(own.keys), rows(pseudo.keys), rows(pseudo.deltas)
    )
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-8)


def test_malmen_by_hand() -> None:
    # One token: k = (1, 2), k~ = (3, 1), g~ = (2,): d = -.5 * 5 * 2 = -5. With e^lambda = 5
    # S = d k^T / (k.k + 5) = -5 (1, 2) / 10
    rule = LeastSquares(1, 0.5, float(np.log(5.0)))
    keys, pseudo = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    found = rule.shift(0, keys, (pseudo, torch.tensor([[2.0]])))
    torch.testing.assert_close(found.float(), torch.tensor([[-0.5, -1.0]]))


def test_malmen_when_the_ridge_is_infinite_then_nothing_changes() -> None:
    own, pseudo = factors(5, 4, 3), factors(5, 4, 3, seed=9)
    largest = []
    for ridge in (0.0, 20.0, 80.0, 800.0):
        change = LeastSquares(1, 1.0, ridge).shift(0, own.keys, (pseudo.keys, pseudo.deltas))
        largest.append(float(change.detach().abs().max()))
    assert largest[0] > 1e-3 > 1e-6 > largest[1] > 1e-30 > largest[2] > largest[3] == 0.0


Rule = RankOneSum | LeastSquares


def straight(rule: Rule, keys: Tensor, pseudo: tuple[Tensor, Tensor]) -> Tensor:
    """The change as a graph that autograd walks through, by the first form of its equation."""
    pseudo_keys, pseudo_deltas = pseudo
    if isinstance(rule, RankOneSum):
        return -rule.rate[0] * pseudo_deltas.T @ pseudo_keys
    wanted = -rule.rate[0] * (keys * pseudo_keys).sum(-1, keepdim=True) * pseudo_deltas
    ridge = rule.log_ridge[0].exp() * torch.eye(keys.shape[1])
    return torch.linalg.solve(keys.T @ keys + ridge, keys.T @ wanted).T


@pytest.mark.parametrize("rule", [RankOneSum(1, 0.3), LeastSquares(1, 0.7, -1.0)])
def test_pulled_back_has_the_gradient_of_the_change_by_all_that_is_trained(rule: Rule) -> None:
    own, gradient = factors(5, 4, 3), numbers(4, 5, seed=4)

    def trained() -> list[Tensor]:
        pseudo = factors(5, 4, 3, seed=9)
        return [each.requires_grad_(True) for each in (pseudo.keys, pseudo.deltas)]

    def gradients(scalar: Tensor, pseudo: Sequence[Tensor]) -> tuple[Tensor, ...]:
        parameters = list(nn.ModuleList([rule]).parameters())
        return torch.autograd.grad(scalar, [*pseudo, *parameters])

    ours, theirs = trained(), trained()
    found = gradients(rule.pulled_back(0, own.keys, (ours[0], ours[1]), gradient), ours)
    scalar = (gradient * straight(rule, own.keys, (theirs[0], theirs[1]))).sum()
    for actual, expected in zip(found, gradients(scalar, theirs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
