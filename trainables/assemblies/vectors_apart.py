"""Vectors of edits that are each rolled back: found side by side, and spread for each edit alone.

For one edit MEMIT's closed form and AlphaEdit's are changes of rank 1, which is what lets the rows
of many edits pass the layers together, each with the changes of its own edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from trainables.assemblies.spread_vectors import VectorRun
from trainables.backbones.hidden_states.covariance import ridged
from trainables.backbones.hidden_states.subject_vectors import keys_and_states
from trainables.backbones.weights_apart import RankOnes, changes_apart
from trainables.backbones.written_weights import WrittenWeights
from trainables.interfaces import Backbone

# As `changes_apart`: of a backbone, changes by the path of a projection, and the edit of each row.
Answering: TypeAlias = Callable[
    [Backbone, Mapping[str, RankOnes], Tensor], AbstractContextManager[None]
]


@dataclass
class VectorsApart:
    """Edits side by side.

    Attributes:
        run: Their vectors.
        changes: What each edit adds to each layer's projection, float64; none before `spread`.
        keys: The key of each edit, (N, F) float64, by layer.
    """

    run: VectorRun
    changes: dict[int, RankOnes] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def spread(
        self,
        backbone: Backbone,
        layers: Sequence[int],
        directions: Callable[[int, Tensor], Tensor],
        answering: Answering = changes_apart,
    ) -> None:
        """Find what each edit adds to the layers' projections, as `spread_vectors.spread` says.

        Args:
            backbone: Pristine, and left so.
            layers: In ascending order.
            directions: Maps a layer and each edit's key, (N, F) float64, to the vectors x, (N, F),
                with which r x^T is the change that adds r to an edit's output.
            answering: Within it the rows of an edit meet the changes that were found so far.
        """
        run, paths = self.run, {layer: backbone.down_path(layer) for layer in layers}
        wanted = run.base + run.delta
        found: dict[str, RankOnes] = {}
        owners = run.rows.owner[: run.rows.num_prompts]
        for index, layer in enumerate(layers):
            with answering(backbone, found, owners):
                keys, states = keys_and_states(backbone, run.rows, layer, layers[-1])
            residuals = (wanted - states).double() / (len(layers) - index)
            self.keys[layer] = keys.double()
            change = RankOnes(residuals, directions(layer, self.keys[layer]))
            self.changes[layer] = found[paths[layer]] = change

    def write(self, weights: WrittenWeights, number: int) -> None:
        """Put the changes of one edit, and no other, into the weights, which layers' numbers name.

        Raises:
            EditDiverged: If a change is not finite.
        """
        weights.restore()
        for layer, change in self.changes.items():
            weights.add(str(layer), change.of(number))


def least_squares_directions(keys: Tensor, old: Tensor) -> Tensor:
    """Solve (old + k k^T) x = k for each key alone; x (N, F), as of `least_squares_update`.

    By one factorisation for all of them: x = y / (1 + k . y) with old y = k.

    Args:
        keys: (N, F) float64.
        old: As there, without keys of earlier batches.
    """
    solution = torch.linalg.solve(ridged(old), keys.T).T
    return solution / (1 + (keys * solution).sum(1, keepdim=True))


def null_space_directions(keys: Tensor, basis: Tensor, l2_weight: float) -> Tensor:
    """Solve AlphaEdit's closed form for each key alone: x = U p / (p . p + l2_weight), p = U^T k.

    Args:
        keys: (N, F) float64.
        basis: U, (F, r) float64, orthonormal columns.
        l2_weight: Above 0.
    """
    projected = keys @ basis
    return projected @ basis.T / (projected.square().sum(1, keepdim=True) + l2_weight)
