"""MEND: a trained network turns the gradient of an edit into a change of some weights.

Source: Mitchell et al., "Fast Model Editing at Scale" (arXiv:2110.11309, Section 3). MEMoE v1
(Appendix D) and v2 (Appendix C.2) run it as a baseline; LEMoE (arXiv:2406.20030v1, Appendix B.2)
prints figures of the WISE paper.

With k what enters a linear module at a token of prompt and target and delta the gradient of the
edit's loss at what leaves it, the network (`trained_editor/networks.py`) gives k~ and delta~, and

    W <- W - alpha * sum over tokens of delta~ k~^T

with an alpha for each weight that is trained, too: a sum of changes of rank 1. The edits of a batch
are summed, each with the network that was trained on single edits. A stream of batches goes on
from the changed weights with the same network, which never saw such weights: it collapses, as
published.

What the network is trained on, and its gradient, is in `trained_editor/problems.py`; how long, in
`assemblies/trainer.py`; choices that MALMEN shares, in `trained_editor/editor.py`.

Choices where the paper is silent, or its public code differs:
- The change is subtracted, as printed; the code adds it, and has to learn the sign of alpha.
- k and delta are normalised, so that an untrained network is a step against the normalised
  gradient, not plain fine-tuning.
- The locality term compares all tokens of an unrelated question and its answer, as in the code.
- The code counts single problems and steps after ten: of its 100,000 and of its patience of 30,000
  a tenth is counted here, where a step takes ten problems.
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
    """Settings of MEND.

    Attributes:
        layers: Decoder layers whose FFN weights are changed, from 0.
        modules: Which weights of the FFN; a family without a gate has none.
        network_rank: Rank of the network's blocks.
        num_blocks: Its residual blocks.
        edit_lr: alpha before training.
        training_lr: Adam's rate on the network.
        rate_lr: Adam's rate on alpha.
        training_steps: Most steps of the network's training.
        edits_at_once: Edits that one problem makes together.
        problems_per_step: Problems whose mean gradient a step takes.
        edit_weight: c_e, weight of the edit's likelihood beside locality.
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


class RankOneSum(nn.Module):
    """-alpha sum delta~ k~^T, with an alpha for each weight."""

    def __init__(self, num_modules: int, edit_lr: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((num_modules,), edit_lr))

    def shift(self, module: int, keys: Tensor, pseudo: tuple[Tensor, Tensor]) -> Tensor:
        """The change (out, in) of one weight."""
        pseudo_keys, pseudo_deltas = pseudo
        return -self.rate[module] * pseudo_deltas.T @ pseudo_keys

    def pulled_back(
        self, module: int, keys: Tensor, pseudo: tuple[Tensor, Tensor], gradient: Tensor
    ) -> Tensor:
        """sum(gradient * shift), without the change itself: a sum of delta~ . (gradient k~)."""
        pseudo_keys, pseudo_deltas = pseudo
        return -self.rate[module] * ((pseudo_deltas @ gradient) * pseudo_keys).sum()

    def rates(self) -> Sequence[nn.Parameter]:
        """Alpha."""
        return [self.rate]

    def parts(self) -> nn.Module:
        """Itself."""
        return self


def mend(
    config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
) -> TrainedEditor:
    """An editor that sums changes of rank 1."""
    return TrainedEditor(
        "mend",
        VERSION,
        EditorSettings.from_config(config),
        backbone,
        artefacts,
        make_rule=lambda num_modules: RankOneSum(num_modules, config.edit_lr),
        scales="inside",
        at_scored=False,
        keeps_all_tokens=True,
    )


CONFIG = Config
METHOD = mend
