"""The Muon optimiser for the weight matrices of a small model, batched over equal shapes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Each matrix with its singular values moved near 1, its singular vectors kept.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): the
    quintic iteration X <- aX + b(XX')X + c(XX')^2 X with a, b, c = 3.4445, -4.7750, 2.0315, after
    division by the Frobenius norm. It does not converge to 1: singular values end in [0.7, 1.2].

    Here the iteration runs on the Gram matrix G = XX' of the shorter side: a step maps X to p(G) X
    and G to p(G) G p(G), p(G) = aI + bG + cG^2, so that X itself is multiplied once, at the end.

    Args:
        matrices: (N, rows, columns) float32.
        steps: Iterations; a singular value below about 1 / 3.4445**steps of the norm stays below 1.

    Returns:
        A tensor of the same shape.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    gram = torch.bmm(wide, wide.mT)
    product: Tensor | None = None
    for step in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        polynomial.diagonal(dim1=1, dim2=2).add_(_A)
        product = polynomial if product is None else torch.bmm(polynomial, product)
        if step < steps - 1:
            gram = torch.bmm(torch.bmm(polynomial, gram), polynomial)
    result = wide if product is None else torch.bmm(product, wide)
    return result.mT if is_tall else result


class Muon:
    """Momentum, orthogonalised: one step moves every matrix by about the same spectral norm.

    Matrices of equal shape are held as one stack, so that a step is a few batched products.
    Nesterov momentum and decoupled weight decay as in the source named at `orthogonalised`; the
    step is scaled by sqrt(max(1, outputs / inputs)).

    Args:
        weights: Pairs of a matrix and whether it is stored (inputs, outputs).
        momentum: Share of the old direction that is kept.
        weight_decay: Share of the weight, times the learning rate, that is taken away per step.
    """

    def __init__(
        self, weights: Iterable[tuple[Tensor, bool]], momentum: float, weight_decay: float
    ) -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay
        groups: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        scales: dict[tuple[int, int], list[float]] = defaultdict(list)
        for weight, is_transposed in weights:
            rows, columns = weight.shape
            outputs, inputs = (columns, rows) if is_transposed else (rows, columns)
            groups[rows, columns].append(weight)
            scales[rows, columns].append(max(1.0, outputs / inputs) ** 0.5)
        self._groups = [
            (group, torch.tensor(scales[shape])[:, None, None], torch.zeros(len(group), *shape))
            for shape, group in groups.items()
        ]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every matrix along its gradient, and forget the gradient."""
        for weights, scale, average in self._groups:
            gradients = torch.stack([_gradient(weight) for weight in weights])
            average.lerp_(gradients, 1 - self.momentum)
            direction = orthogonalised(gradients.lerp_(average, self.momentum)) * (lr * scale)
            for weight, change in zip(weights, direction.unbind(), strict=True):
                weight.mul_(1 - lr * self.weight_decay).sub_(change)
                weight.grad = None


def _gradient(weight: Tensor) -> Tensor:
    if weight.grad is None:
        raise ValueError(f"a matrix of shape {tuple(weight.shape)} has no gradient")
    return weight.grad
