"""Dense adapter: several experts beside the FFN of one layer, all of them always on, no router.

Source: "MEMoE", later version (the one with a dual-attention router), Table 2, row "- MoE
structure": the sparse experts are replaced with "a dense adapter having similar parameters". With
FFN-shaped experts that is one FFN of num_experts times the width; MEMoE v1's Eq. 11
(arXiv:2405.19086) with G_e constant.

Choices where the paper is silent:
- `combination: sum` (the default) adds up what the experts answer, as one wide FFN would; `mean`
  divides by their number, so that the adapter starts with steps as small as one expert's.
- Copies of the same up projection with the same gate get the same gradient and stay one FFN. Each
  expert's copy therefore gets normal noise of `init_noise` times the standard deviation of its
  entries (.1, enough to part them and too little to change what they read); 0 keeps them equal.
  Linear experts are one matrix however many there are, and have no such noise.
- Optimiser, steps and shapes are those of MEMoE v1's experts, so that the arms differ in their
  routing alone. In a stream the same experts go on training, with a fresh AdamW for every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.bypass import Bypass
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
from trainables.moe.experts import Bank, ExpertShape, FfnBank, FrozenFfn, bank_of
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
from trainables.prompts import row_index

Combination = Literal["sum", "mean"]


@checked
class Config:
    """Settings of the dense adapter.

    Attributes:
        edit_layer: Decoder layer whose FFN gets the bypass, from 0.
        expert: Shape of an expert, as in MEMoE v1.
        num_experts: How many experts' parameters the adapter has.
        combination: How the experts are added.
        init_noise: Standard deviation of the noise on copied weights, in units of theirs.
        bypass_weight: Scales what the experts add.
        edit_lr: AdamW's learning rate.
        num_steps: Most steps per batch of edits.
        stop_loss: A batch is done below this loss, nats per token; None: never early.
        weight_decay: AdamW's.
    """

    edit_layer: int
    expert: ExpertShape
    num_experts: Count
    combination: Combination
    init_noise: PositiveOrZero
    bypass_weight: PositiveOrZero
    edit_lr: Positive
    num_steps: Count
    stop_loss: float | None
    weight_decay: PositiveOrZero


class DenseAdapter:
    """Trains all experts on every token; the backbone stays frozen."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        self._bypass = Bypass(
            backbone,
            config.edit_layer,
            self._bank,
            artefacts.prefix_cache,
            num_experts=config.num_experts,
            bypass_weight=config.bypass_weight,
        )
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._device = backbone.device
        self._agreed = backbone.micro_batch.agreed
        self._generator = generators.init
        self.run: BatchRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing is learned from other edits."""

    def begin(self, batch: EditBatch) -> None:
        """Add the experts before the first batch, and train them on this one."""
        if not self._bypass.is_attached:
            self._bypass.attach()
        self._start(batch)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` AdamW steps; True when the batch is done."""
        return begun(self.run).advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze the experts until the next batch."""
        report = begun(self.run).report()
        self._bypass.freeze()
        self.run = None
        return report

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) with every expert on."""
        return self._bypass.logits(prompts, state, self._gates(len(prompts.input_ids)))

    def state(self) -> State:
        """The experts; the optimisation too when a batch is under way."""
        state = State({"generator": self._generator.get_state()})
        state.nest("experts", self._bypass.state())
        if self.run is not None:
            self.run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.remove()
        self._bypass.load(state.inner("experts"))
        batch = stored_batch(state, self._device)
        if batch is not None:
            self._start(batch).resume(state)
        # Last: building the experts above drew from it.
        self._generator.set_state(state.tensors["generator"].cpu())

    def remove(self) -> None:
        """Put the FFN back in its place and forget all edits."""
        self._bypass.remove()
        self.run = None

    def _bank(self, num_experts: int, frozen: FrozenFfn) -> Bank:
        bank = bank_of(self._config.expert, num_experts, frozen)
        if isinstance(bank, FfnBank):
            noise = torch.randn(bank.inner.shape, generator=self._generator)
            scale = self._config.init_noise * frozen.up.detach().float().std()
            with torch.no_grad():
                bank.inner.add_(noise.to(bank.inner) * scale.to(bank.inner))
        return bank

    def _gates(self, num_rows: int) -> Tensor:
        num_experts = self._config.num_experts
        value = 1.0 if self._config.combination == "sum" else 1.0 / num_experts
        return torch.full((num_rows, num_experts), value, device=self._device)

    def _start(self, batch: EditBatch) -> BatchRun:
        """Set up the optimisation of all experts."""
        tokens, rows = batch.tokens, TargetRows.of(row_index(batch.tokens))
        parameters = self._bypass.thaw()
        frozen = self._bypass.frozen(tokens)
        gates = self._gates(len(batch))

        def loss() -> Passing:
            losses = yield self._bypass.passage(token_losses, tokens, frozen, gates, batch.labels)
            return row_loss(losses, rows)

        config = self._config
        settings = OptimiserSettings(
            "adamw", config.edit_lr, config.num_steps, config.stop_loss, config.weight_decay
        )
        optimisation = Optimisation(parameters, PassingLoss(loss), settings, agreed=self._agreed)
        self.run = BatchRun(batch, optimisation)
        return self.run


CONFIG = Config
METHOD = DenseAdapter
VERSION = 2  # rows are packed where they train
