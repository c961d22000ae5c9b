"""FT-L and FT-M: fine-tune the FFN output projection of one layer in place.

Source: Meng et al., "Locating and Editing Factual Associations in GPT" (arXiv:2202.05262), the
constrained fine-tuning baseline (an L-infinity box around the weight). LEMoE (arXiv:2406.20030v1),
Appendix B.2, and both MEMoE papers use it as FT-L.

Two losses:
- `prompt_last`: the published FT-L of the field's common tool scores every target token against the
  one distribution at the last prompt token, and never feeds the target. A target of several tokens
  therefore asks one position to be several tokens at once. Kept as it is, because published numbers
  rest on it.
- `target_new`: teacher-forced cross-entropy on the target's tokens (FT-M).

Deviations, and choices where the papers are silent:
- The box is around the pristine weight, also in a lifelong stream (`norm_bound`); a copy taken at
  every call would let the box move with the weight.
- The loop ends below `stop_loss`; a fresh Adam starts with each batch.
- No begin token is ever among the targets.
- Of a backbone in float16 or bfloat16 a float32 copy of the weight is trained; its rounding runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.master_weight import MasterWeight
from trainables.backbones.split import Split
from trainables.backbones.surgery import KeptWeights
from trainables.field_kinds import Count, Positive, checked
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
    target_loss,
    token_losses,
)
from trainables.prompts import row_index


@checked
class Config:
    """Settings of FT-L and FT-M.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection is trained, from 0.
        loss: What is minimised; see the module's docstring.
        edit_lr: Adam's learning rate.
        num_steps: Most steps per batch of edits.
        stop_loss: A batch is done below this loss; nats per token.
        norm_bound: Half width of the box around the pristine weight; None: no box.
    """

    edit_layer: int
    loss: Literal["prompt_last", "target_new"]
    edit_lr: Positive
    num_steps: Count
    stop_loss: float
    norm_bound: Positive | None


class FineTuning:
    """Trains one weight of the backbone in place."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._path = f"{backbone.down_path(config.edit_layer)}.weight"
        self._kept = KeptWeights(backbone.model, [self._path])
        self._master = MasterWeight(self._kept.parameter(self._path))
        self._split = Split(backbone, config.edit_layer, artefacts.prefix_cache)
        self._run: BatchRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing to build."""

    def begin(self, batch: EditBatch) -> None:
        """Set up Adam on the weight; nothing has changed yet."""
        hidden = self._split.hidden(batch.tokens)
        tokens, labels = batch.tokens, batch.labels
        rows = TargetRows.of(row_index(tokens))
        if self._config.loss == "prompt_last":
            tokens = _at_prompt_ends(tokens)

        def loss() -> Tensor:
            if self._config.loss == "prompt_last":
                logits, _ = self._split.logits(tokens, hidden=hidden)
                # one distribution per row, for each of its target tokens
                return target_loss(logits[rows.index], labels, rows)
            return row_loss(
                self._split.per_token(token_losses, tokens, labels, hidden=hidden), rows
            )

        settings = OptimiserSettings(
            "adam", self._config.edit_lr, self._config.num_steps, self._config.stop_loss
        )
        optimisation = Optimisation(
            {"weight": self._master.thaw()},
            loss,
            settings,
            agreed=self._split.backbone.micro_batch.agreed,
            after_step=self._project,
        )
        self._run = BatchRun(batch, optimisation)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` Adam steps; True when the batch is done."""
        return begun(self._run).advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze the weight again."""
        report = begun(self._run).report()
        self._master.freeze()
        self._run = None
        return report

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the trained weight."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """The weight, and the optimisation when a batch is under way."""
        state = State(tensors={"weight": self._master.value.detach()})
        if self._run is not None:
            self._run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._master.set(state.tensors["weight"])
        batch = stored_batch(state, self._split.backbone.device)
        if batch is not None:
            self.begin(batch)
            begun(self._run).resume(state)

    def remove(self) -> None:
        """Put the pristine weight back, bit for bit."""
        self._kept.restore()
        self._master.reread()
        self._run = None

    def inference_bytes(self) -> int:
        """The weight as the backbone holds it."""
        return self._master.num_bytes

    @torch.no_grad()
    def _project(self) -> None:
        bound = self._config.norm_bound
        if bound is not None:
            pristine = self._kept.pristine(self._path).to(self._master.value.dtype)
            self._master.value.clamp_(pristine - bound, pristine + bound)
        self._master.write()


def _at_prompt_ends(tokens: PromptBatch) -> PromptBatch:
    """The prompts alone, scored at their last token; the target is masked out."""
    scored = torch.zeros_like(tokens.scored)
    scored[torch.arange(len(scored), device=scored.device), tokens.prompt_ends] = True
    return PromptBatch(tokens.input_ids, tokens.prompt_mask.long(), tokens.prompt_lengths, scored)


VERSION = 2  # float32 copy of a low-precision weight
CONFIG = Config
METHOD = FineTuning
