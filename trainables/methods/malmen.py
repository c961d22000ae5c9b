"""MALMEN: a trained network writes many edits at once, reconciled by least squares.

Source: Tan et al., "Massive Editing for Large Language Models via Meta Learning"
(arXiv:2311.04661, Sections 3 and 4), whose network is that of MEND. ARM runs it as a baseline.

With k what enters a linear module at a token that predicts a target token, g the gradient of that
edit's loss at what leaves it, and (k~, g~) what the network makes of the two, the module's output
at this token is to change by

    d = -eta (k . k~) g~

All rows k (S, in) and d (S, out) of a batch make K and D, and the weight (out, in) changes by the
least-squares solution S that is held back by a ridge:

    S^T = (K^T K + e^lambda I)^-1 K^T D = K^T (K K^T + e^lambda I)^-1 D

eta and lambda are trained, one of each for every weight. The second form, S x S, is solved, in
float64: there are fewer tokens than inputs. The gradient by D and lambda is in closed form.

Choices where the paper is silent, or its public code differs:
- All edits of a batch are cached and used, whatever their number; the code counts the pieces of the
  keys upwards and those of the gradients downwards, and mismatches the last, unless one divides the
  other.
- The gradient of a batch's loss is that of its mean over edits; the code adds up means over pieces.
- Training takes `edits_at_once` edits for a step, as the code does; the number of edits of a batch
  that is edited is the protocol's. ARM edits one at a time and trained for that.
- The code's locality term compares the tokens that predict an unrelated answer; so does this.
- What MEND shares, see `trained_editor/editor.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.assemblies.trained_editor.editor import (
    EditorSettings,
    Module,
    TrainedEditor,
    check_layers,
    module_names,
)
from trainables.field_kinds import Count, Positive, PositiveOrZero, ShareBelowOne, checked
from trainables.interfaces import (
    Backbone,
    Family,
    Generators,
)

VERSION = 1


@checked
class Config:
    """Settings of MALMEN.

    Attributes:
        layers: Decoder layers whose FFN weights are changed, from 0.
        modules: Which weights of the FFN; a family without a gate has none.
        network_rank: Rank of the network's blocks.
        num_blocks: Its residual blocks.
        edit_lr: eta before training.
        log_ridge: lambda before training.
        training_lr: Adam's rate on the network.
        rate_lr: Adam's rate on eta and lambda.
        training_steps: Most steps of the network's training.
        edits_at_once: Edits that one problem writes together.
        problems_per_step: Problems whose mean gradient a step takes.
        edit_weight: Weight of the edits' likelihood beside locality.
        locality_weight: Weight of the locality term.
        max_norm: A longer gradient of the network is cut to this.
        validate_every: Steps between two looks at the records that are held out.
        patience: Steps without a gain there that end the training.
        held_out: Share of the training records that is held out.
        most_held_out: Most records of it.
        training_seed: Of the network; it is the same for all seeds of a trial.
    """

    layers: tuple[int, ...]
    modules: tuple[Module, ...]
    network_rank: Count
    num_blocks: Count
    edit_lr: Positive
    log_ridge: float
    training_lr: Positive
    rate_lr: Positive
    training_steps: Count
    edits_at_once: Count
    problems_per_step: Count
    edit_weight: PositiveOrZero
    locality_weight: PositiveOrZero
    max_norm: Positive
    validate_every: Count
    patience: Count
    held_out: ShareBelowOne
    most_held_out: Count
    training_seed: int

    def __post_init__(self) -> None:
        check_layers(self.layers, self.modules)


def check_modules(config: Config, family: Family) -> None:
    """Refuse modules of which the family has none.

    Raises:
        ConfigError: If it has none.
    """
    module_names(family, config.modules)


class LeastSquares(nn.Module):
    """The solution above, with an eta and a lambda for each weight; S tokens of one module."""

    def __init__(self, num_modules: int, edit_lr: float, log_ridge: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((num_modules,), edit_lr))
        self.log_ridge = nn.Parameter(torch.full((num_modules,), log_ridge))

    def wanted(self, module: int, keys: Tensor, pseudo: tuple[Tensor, Tensor]) -> Tensor:
        """D: by how much the module's output is to change at each token, (S, out)."""
        pseudo_keys, pseudo_deltas = pseudo
        return -self.rate[module] * (keys * pseudo_keys).sum(-1, keepdim=True) * pseudo_deltas

    def shift(self, module: int, keys: Tensor, pseudo: tuple[Tensor, Tensor]) -> Tensor:
        """The change (out, in) of one weight, float64."""
        wide = keys.double()
        solved = self._solved(module, wide, self.wanted(module, keys, pseudo).double())
        return solved.T @ wide

    def pulled_back(
        self, module: int, keys: Tensor, pseudo: tuple[Tensor, Tensor], gradient: Tensor
    ) -> Tensor:
        """A scalar whose gradient is that of sum(gradient * shift).

        With B = (K K^T + e^lambda I)^-1, the gradient by D is B K gradient^T, and that by lambda
        -e^lambda <B K gradient^T, B D>: no graph passes the solution.
        """
        wanted, wide = self.wanted(module, keys, pseudo), keys.double()
        with torch.no_grad():
            both = torch.cat([wide @ gradient.double().T, wanted.double()], -1)
            by_wanted, solved = self._solved(module, wide, both).chunk(2, -1)
            by_ridge = -self.log_ridge[module].exp() * (by_wanted * solved).sum()
        return (by_wanted.to(wanted) * wanted).sum() + by_ridge.float() * self.log_ridge[module]

    def rates(self) -> Sequence[nn.Parameter]:
        """Eta and lambda."""
        return [self.rate, self.log_ridge]

    def parts(self) -> nn.Module:
        """Itself."""
        return self

    def _solved(self, module: int, keys: Tensor, right: Tensor) -> Tensor:
        """(K K^T + e^lambda I)^-1 times what stands on the right, (S, ...) float64."""
        gram = keys @ keys.T
        gram.diagonal().add_(self.log_ridge[module].detach().double().exp())
        solution: Tensor = torch.linalg.solve(gram, right)
        return solution


def malmen(
    config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
) -> TrainedEditor:
    """An editor that reconciles its changes by least squares."""
    return TrainedEditor(
        "malmen",
        VERSION,
        EditorSettings.from_config(config),
        backbone,
        artefacts,
        make_rule=lambda num_modules: LeastSquares(num_modules, config.edit_lr, config.log_ridge),
        scales="outside",
        at_scored=True,
        keeps_all_tokens=False,
    )


CONFIG = Config
METHOD = malmen
