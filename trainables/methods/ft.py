"""FT-L, FT-M and LocFT-BF: fine-tune the FFN output projection of one layer in place.

Source: Meng et al., "Locating and Editing Factual Associations in GPT" (arXiv:2202.05262), the
constrained fine-tuning baseline (an L-infinity box around the weight). LEMoE (arXiv:2406.20030v1),
Appendix B.2, and both MEMoE papers use it as FT-L.

Two losses:
- `prompt_last`: the published FT-L of the field's common tool scores every target token against the
  one distribution at the last prompt token, and never feeds the target. A target of several tokens
  therefore asks one position to be several tokens at once. Kept as it is, because published numbers
  rest on it.
- `target_new`: teacher-forced cross-entropy on the target's tokens (FT-M).

LocFT-BF (Yang et al., "Fine-tuning Done Right in Model Editing", arXiv:2509.22072, and its public
code; no text of the paper was at hand) is FT-M that passes breadth-first over all edits, again and
again, in mini-batches and each time in a new order, at a layer that was located: `mini_batch_size`.

Deviations, and choices where the papers are silent:
- With mini-batches the loop ends with a pass whose mean loss is below `stop_loss`, as in the public
  code, but before the last step of that pass; mini-batches below it are stepped on, too.
- The box is around the pristine weight, also in a lifelong stream (`norm_bound`); a copy taken at
  every call would let the box move with the weight.
- The loop ends below `stop_loss`; a fresh Adam starts with each batch.
- No begin token is ever among the targets.
- Edits that are each rolled back (`single`) are trained side by side, each with a weight, an Adam
  and a stop of its own: their rows pass the frozen layers together.
- Of a backbone in float16 or bfloat16 a float32 copy of the weight is trained; its rounding runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.backbones.forward.passage import Rows
from trainables.backbones.forward.split import Split
from trainables.backbones.layers import check_edit_layer
from trainables.backbones.master_weight import MasterWeight
from trainables.backbones.surgery import KeptWeights
from trainables.backbones.weights_apart import weights_apart
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
    Together,
    begun,
    row_loss,
    row_means,
    stored_batch,
    token_losses,
)
from trainables.passing import Passing, PassingLoss, UnderWay
from trainables.prompts import batch_from, batch_state, row_index
from trainables.seeding import generator


@checked
class Config:
    """Settings of FT-L and FT-M.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection is trained, from 0.
        loss: What is minimised; see the module's docstring.
        edit_lr: Adam's learning rate.
        num_steps: Most passes over a batch of edits, each of one step, or one for each mini-batch.
        stop_loss: A batch is done below this loss, the mean of a pass, nats per token; None: never
            early.
        norm_bound: Half width of the box around the pristine weight; None: no box.
        mini_batch_size: Edits of one step; None: all of the batch.
    """

    edit_layer: int
    loss: Literal["prompt_last", "target_new"]
    edit_lr: Positive
    num_steps: Count
    stop_loss: float | None
    norm_bound: Positive | None
    mini_batch_size: Count | None


_MOST_APART_GIB = 0.25  # of memory for weights side by side
_COPIES = 4  # of each: itself, its gradient and Adam's two moments


class Passes:
    """The mini-batches of a batch, pass after pass.

    Attributes:
        losses: Of the mini-batches of the present pass so far.
    """

    def __init__(self, num_edits: int, size: int, seed: int) -> None:
        """`seed` decides the order of each pass."""
        self.losses: list[float] = []
        self.per_pass = math.ceil(num_edits / size)
        self._num_edits, self._size, self._seed = num_edits, size, seed

    def edits(self, step: int) -> Tensor:
        """The edits of step `step`, counted from 0; int64, on the host."""
        number, place = divmod(step, self.per_pass)
        order = torch.randperm(self._num_edits, generator=generator(self._seed, f"pass {number}"))
        return order[place * self._size : (place + 1) * self._size]

    def note(self, step: int, loss: float) -> float | None:
        """Take down the loss of a step; the mean of its pass if it is the last one there."""
        place = step % self.per_pass
        self.losses = [*self.losses[:place], loss]
        return sum(self.losses) / len(self.losses) if place == self.per_pass - 1 else None


@dataclass(frozen=True)
class _Part:
    """Some edits of a batch.

    Attributes:
        tokens: Their rows, scored where the loss reads.
        labels: Their target tokens, (M,).
        rows: The row of each target token.
        hidden: States that enter the edited layer, (B, T, D).
    """

    tokens: PromptBatch
    labels: Tensor
    rows: TargetRows
    hidden: Tensor


@dataclass(frozen=True)
class _Apart:
    """Edits side by side, each with a weight of its own."""

    batch: EditBatch
    weights: list[nn.Parameter]
    together: Together

    def store(self, state: State) -> None:
        """Add to a method's state what these edits need to go on."""
        inner = State({str(n): weight.detach() for n, weight in enumerate(self.weights)})
        inner.nest("batch", batch_state(self.batch))
        for number, each in enumerate(self.together.each):
            inner.nest(f"optimisation {number}", each.state())
        state.nest("apart", inner)

    @torch.no_grad()
    def resume(self, state: State) -> None:
        """Go on with what `store` wrote for the same batch."""
        for number, weight in enumerate(self.weights):
            weight.copy_(state.tensors[str(number)])
        for number, each in enumerate(self.together.each):
            each.load(state.inner(f"optimisation {number}"))


class FineTuning:
    """Trains one weight of the backbone in place."""

    changes_in_finish = False
    trains_in_place = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        check_edit_layer(config.edit_layer, backbone)
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._down = backbone.down_path(config.edit_layer)
        self._path = f"{self._down}.weight"
        self._kept = KeptWeights(backbone.model, [self._path])
        self._master = MasterWeight(self._kept.parameter(self._path))
        self._split = Split(backbone, config.edit_layer, artefacts.prefix_cache, packs=True)
        self.run: BatchRun | None = None
        self._passes: Passes | None = None
        self._apart: _Apart | None = None
        self.most_side_by_side = 1
        if config.mini_batch_size is None:
            held = _COPIES * self._master.value.nbytes
            self.most_side_by_side = max(1, int(_MOST_APART_GIB * 2**30) // held)
        # Drawn even where nobody asks: it costs nothing, and nothing else draws.
        self._seed = int(torch.randint(2**62, (), generator=generators.noise))

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing to build."""

    def begin(self, batch: EditBatch) -> None:
        """Set up Adam on the weight; nothing has changed yet."""
        config, size = self._config, self._config.mini_batch_size
        hidden = self._split.hidden(batch.tokens)
        self._passes = Passes(len(batch), size, self._seed) if size else None
        per_pass = self._passes.per_pass if self._passes else 1
        self.num_steps = config.num_steps * per_pass
        all_at_once = None if size else self._part(batch.tokens, batch.labels, hidden)

        def loss() -> Passing:
            if self._passes is None:
                return (yield from self._loss(begun(all_at_once)))
            chosen = self._passes.edits(optimisation.steps_taken)
            each = batch.labels.split(batch.tokens.scored_counts)
            labels = torch.cat([each[edit] for edit in chosen.tolist()])
            rows = chosen.to(hidden.device, non_blocking=True)
            part = self._part(batch.tokens.rows(chosen), labels, hidden[rows])
            return (yield from self._loss(part))

        def is_learned() -> bool:
            if self._passes is None or optimisation.last_loss is None:
                return False
            mean = self._passes.note(optimisation.steps_taken, optimisation.last_loss)
            if mean is None or config.stop_loss is None:
                return False
            return mean < config.stop_loss

        optimisation = Optimisation(
            {"weight": self._master.thaw()},
            PassingLoss(loss),
            OptimiserSettings(
                "adam", config.edit_lr, self.num_steps, None if size else config.stop_loss
            ),
            agreed=self._split.backbone.micro_batch.agreed,
            after_step=self._project,
            is_learned=is_learned,
        )
        self.run = BatchRun(batch, optimisation)

    def begin_each(self, batch: EditBatch) -> None:
        """Set up a weight and an Adam for each edit by itself."""
        config = self._config
        self.num_steps = config.num_steps
        settings = OptimiserSettings("adam", config.edit_lr, config.num_steps, config.stop_loss)
        start = self._master.value.detach()
        weights = [nn.Parameter(start.clone()) for _ in range(len(batch))]

        def optimisation(weight: nn.Parameter) -> Optimisation:
            return Optimisation(
                {"weight": weight},
                lambda: torch.zeros(()),  # `Together` computes the losses of all
                settings,
                after_step=lambda: self._bound(weight),
            )

        hidden = self._split.hidden(batch.tokens)
        labels = batch.labels.split(batch.tokens.scored_counts)

        def losses(running: Sequence[int]) -> Tensor:
            rows = torch.tensor(running)
            part = self._part(
                batch.tokens.rows(rows),
                torch.cat([labels[number] for number in running]),
                hidden[rows.to(hidden.device, non_blocking=True)],
            )
            with weights_apart(self._split.backbone, self._down, [weights[n] for n in running]):
                return row_means(UnderWay(self._token_losses(part)).alone(), part.rows)

        together = Together(
            [optimisation(weight) for weight in weights],
            losses,
            self._split.backbone.micro_batch.agreed,
        )
        self._apart = _Apart(batch, weights, together)

    def finish_each(self) -> list[EditReport]:
        """Freeze the weights."""
        apart = begun(self._apart)
        for weight in apart.weights:
            weight.requires_grad_(False)
            weight.grad = None
        return [
            EditReport(num_edits=1, num_steps=each.steps_taken, final_loss=each.last_loss)
            for each in apart.together.each
        ]

    def take(self, number: int) -> None:
        """Put the weight of one edit in place."""
        self._master.set(begun(self._apart).weights[number].detach())

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` Adam steps; True when the batch is done."""
        if self._apart is not None:
            return self._apart.together.advance(max_steps)
        return begun(self.run).advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze the weight again."""
        report = begun(self.run).report()
        self._master.freeze()
        self.run = None
        return report

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the trained weight."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """The weight, and the optimisation when a batch is under way."""
        state = State(tensors={"weight": self._master.value.detach()})
        if self._config.mini_batch_size is not None:
            state.values["seed"] = self._seed
        if self.run is not None:
            self.run.store(state)
            if self._passes is not None:
                state.values["losses"] = list(self._passes.losses)
        if self._apart is not None:
            self._apart.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._master.set(state.tensors["weight"])
        values: Any = state.values
        self._seed = int(values.get("seed", self._seed))
        batch = stored_batch(state, self._split.backbone.device)
        if batch is not None:
            self.begin(batch)
            begun(self.run).resume(state)
            if self._passes is not None:
                self._passes.losses = list(values["losses"])
        if "apart" in state.values:
            inner = state.inner("apart")
            self.begin_each(batch_from(inner.inner("batch"), self._split.backbone.device))
            begun(self._apart).resume(inner)

    def remove(self) -> None:
        """Put the pristine weight back, bit for bit."""
        self._kept.restore()
        self._master.reread()
        self.run = self._apart = None

    def inference_bytes(self) -> int:
        """The weight as the backbone holds it."""
        return self._master.num_bytes

    def _part(self, tokens: PromptBatch, labels: Tensor, hidden: Tensor) -> _Part:
        """What the loss of some edits reads; all is counted on the host."""
        rows = TargetRows.of(row_index(tokens.on_host))
        if self._config.loss == "prompt_last":
            tokens = _at_prompt_ends(tokens.on_host).to(hidden.device)
        there = (each.to(hidden.device, non_blocking=True) for each in (rows.index, rows.counts))
        return _Part(tokens, labels, TargetRows(*there), hidden)

    def _loss(self, part: _Part) -> Passing:
        """Mean over edits of the mean over target tokens."""
        losses = yield from self._token_losses(part)
        return row_loss(losses, part.rows)

    def _token_losses(self, part: _Part) -> Passing:
        if self._config.loss == "prompt_last":
            logits, _ = self._split.logits(part.tokens, hidden=part.hidden)
            # one distribution per row, for each of its target tokens
            return token_losses(logits[part.rows.index], part.labels)
        return (yield Rows(self._split, token_losses, part.tokens, (part.labels,), part.hidden))

    def _project(self) -> None:
        self._bound(self._master.value)
        self._master.write()

    @torch.no_grad()
    def _bound(self, weight: Tensor) -> None:
        """Put a weight back into the box around the pristine one."""
        bound = self._config.norm_bound
        if bound is not None:
            pristine = self._kept.pristine(self._path).to(weight.dtype)
            weight.clamp_(pristine - bound, pristine + bound)


def _at_prompt_ends(tokens: PromptBatch) -> PromptBatch:
    """The prompts alone, scored at their last token; the target is masked out."""
    scored = torch.zeros_like(tokens.scored)
    scored[torch.arange(len(scored), device=scored.device), tokens.prompt_ends] = True
    return PromptBatch(tokens.input_ids, tokens.prompt_mask.long(), tokens.prompt_lengths, scored)


VERSION = 4  # edits that are rolled back train side by side
CONFIG = Config
METHOD = FineTuning
