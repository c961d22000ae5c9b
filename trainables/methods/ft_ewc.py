"""FT-EWC: fine-tune one FFN output projection, held back where the latest edits need it.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks"
(arXiv:1612.00796): the loss of a new task and a penalty sum_i F_i (theta_i - theta*_i)^2.
LEMoE (arXiv:2406.20030v1), Appendix B.2, runs it as a baseline in line with Hartvigsen et al.
(arXiv:2211.11031): rate 1e-2, penalty factor .1, 10 replayed edits, no box around the weight.

    loss = NLL(batch) + penalty_weight * sum F * (W - W*)^2

W* is the weight after the previous batch, and F, of the shape of W, the mean over the latest
`num_replayed` edits of the squared gradient of each one's NLL, taken at W*. Before there is an
earlier edit there is no penalty, and the loop is FT-M's.

Choices where the paper is silent:
- The factor before the sum is lambda, without a half, as in the public code.
- A batch is done when each target token is the first choice, teacher forced; the public code's most
  steps are 100. Adam is fresh in each batch.

Deviations from the public code (GRACE), all of them errors there: F and W* are means over the edits
that there are, not sums divided by 10 (with fewer than 10 its W* shrinks towards 0); gradients of
replayed edits are not added up before they are squared; argmax and label are compared one token
apart, as the model predicts them.

Of a backbone in float16 or bfloat16 a float32 copy of the weight is trained; its rounding runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.passage import Rows
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.unedited import gradient_factors
from trainables.backbones.layers import check_edit_layer
from trainables.backbones.master_weight import MasterWeight
from trainables.backbones.surgery import KeptWeights
from trainables.field_kinds import Count, Positive, PositiveOrZero, checked
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    Generators,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.optimise import (
    BatchRun,
    Optimisation,
    OptimiserSettings,
    TargetRows,
    begun,
    row_loss,
    stored_batch,
    token_losses,
)
from trainables.passing import Passing, PassingLoss
from trainables.prompts import Row, collate, labels_of, pad_id, row_index


@checked
class Config:
    """Settings of FT-EWC.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection is trained, from 0.
        edit_lr: Adam's learning rate.
        num_steps: Most steps per batch of edits.
        penalty_weight: Lambda; 0: no penalty.
        num_replayed: Latest edits whose gradients say what the weight is needed for.
    """

    edit_layer: int
    edit_lr: Positive
    num_steps: Count
    penalty_weight: PositiveOrZero
    num_replayed: Count


@dataclass(frozen=True)
class Penalty:
    """What holds the weight back: F and W*, both of the weight's own shape."""

    importance: Tensor
    anchor: Tensor

    def of(self, weight: Tensor) -> Tensor:
        """Sum over all entries of F (W - W*)^2; scalar."""
        return (self.importance * (weight - self.anchor) ** 2).sum()


class ElasticFineTuning:
    """Trains one weight of the backbone in place, under a penalty."""

    changes_in_finish = False
    trains_in_place = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        check_edit_layer(config.edit_layer, backbone)
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._backbone = backbone
        path = backbone.down_path(config.edit_layer)
        self._kept = KeptWeights(backbone.model, [f"{path}.weight"])
        self._master = MasterWeight(self._kept.parameter(f"{path}.weight"))
        self._split = Split(backbone, config.edit_layer, artefacts.prefix_cache, packs=True)
        self._site = Site(backbone, config.edit_layer, path, artefacts.prefix_cache)
        self._replayed: list[Row] = []  # oldest first
        self._penalty: Penalty | None = None
        self.run: BatchRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing to build."""

    def begin(self, batch: EditBatch) -> None:
        """Take W* and F, and set up Adam on the weight; nothing has changed yet."""
        self._penalty = None
        if self._replayed and self._config.penalty_weight:
            self._penalty = Penalty(self._importance(), self._master.value.detach().clone())
        self._start(batch)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` Adam steps; True when the batch is done."""
        return begun(self.run).advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze the weight again, and remember the edits."""
        run = begun(self.run)
        tokens = run.batch.tokens
        lengths = tokens.on_host.prompt_lengths.tolist()
        self._replayed += [
            Row(tuple(ids.tolist()), length)
            for ids, length in zip(tokens.real_ids, lengths, strict=True)
        ]
        del self._replayed[: -self._config.num_replayed]
        self._master.freeze()
        self._penalty = self.run = None
        return run.report()

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the trained weight."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """The weight and the replayed edits; the penalty and the optimisation inside a batch."""
        state = State(
            {"weight": self._master.value.detach()},
            {"replayed": [[list(row.ids), row.prompt_length] for row in self._replayed]},
        )
        if self.run is not None:
            if self._penalty is not None:
                state.tensors["importance"] = self._penalty.importance
                state.tensors["anchor"] = self._penalty.anchor
            self.run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._master.set(state.tensors["weight"])
        replayed: Any = state.values["replayed"]
        self._replayed = [Row(tuple(ids), length) for ids, length in replayed]
        self._penalty = None
        if "anchor" in state.tensors:
            held = (state.tensors[name].to(self._master.value) for name in ("importance", "anchor"))
            self._penalty = Penalty(*held)
        batch = stored_batch(state, self._backbone.device)
        if batch is not None:
            self._start(batch).resume(state)

    def remove(self) -> None:
        """Put the pristine weight back, bit for bit, and forget all edits."""
        self._kept.restore()
        self._master.reread()
        self._replayed = []
        self._penalty = self.run = None

    def inference_bytes(self) -> int:
        """The weight as the backbone holds it."""
        return self._master.num_bytes

    def _importance(self) -> Tensor:
        """F at the present weight: mean over replayed edits of the squared gradient."""
        pad = pad_id(self._backbone.tokenizer)
        tokens = collate(self._replayed, pad_id=pad, device=self._backbone.device)
        total = torch.zeros_like(self._master.value)
        for deltas, keys, owner in gradient_factors(self._site, tokens, labels_of(tokens)):
            for row in owner.unique_consecutive():
                own = owner == row
                gradient = deltas[own].T @ keys[own]  # (D, F)
                is_transposed = self._backbone.family.is_transposed
                total += (gradient.T if is_transposed else gradient) ** 2
        return total / len(self._replayed)

    def _start(self, batch: EditBatch) -> BatchRun:
        """Set up the optimisation of the weight."""
        hidden = self._split.hidden(batch.tokens)
        rows, agreed = TargetRows.of(row_index(batch.tokens)), self._backbone.micro_batch.agreed
        learned: list[Tensor] = [torch.zeros(())]  # whether all targets are the first choice

        def scored(logits: Tensor, labels: Tensor) -> Tensor:
            is_first = logits.argmax(-1) == labels
            return torch.stack([token_losses(logits, labels), is_first.float()], dim=-1)  # (m, 2)

        def loss() -> Passing:
            both = yield Rows(self._split, scored, batch.tokens, (batch.labels,), hidden)
            learned[0] = both[:, 1].detach().amin()
            nll = row_loss(both[:, 0], rows)
            if self._penalty is None:
                return nll
            return nll + self._config.penalty_weight * self._penalty.of(self._master.value)

        config = self._config
        self.run = BatchRun(
            batch,
            Optimisation(
                {"weight": self._master.thaw()},
                PassingLoss(loss),
                OptimiserSettings("adam", config.edit_lr, config.num_steps),
                agreed=agreed,
                after_step=self._master.write,
                is_learned=lambda: bool(agreed(learned[0])),
            ),
        )
        return self.run


CONFIG = Config
METHOD = ElasticFineTuning
VERSION = 2  # rows are packed where they train
