"""LoRA: low-rank maps beside the attention's or the FFN's weights of every layer, trained on edits.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685), see
`low_rank`. MEMoE v1 (arXiv:2405.19086), Appendix D, and "MEMoE", later version, Appendix C.2,
run it as a baseline: rank 8, alpha 32, dropout .1, rate 1e-3, 50 steps on LLaMA2-7B and 30 on
GPT2-XL.

Choices where the papers are silent:
- Queries and values get a map, as in the field's common tool, in all layers; where one weight makes
  queries, keys and values, it gets one map. The rank is not scaled with a backbone's width.
- Edits that are each rolled back (`single`) are trained side by side, each with maps and a stop of
  its own: their rows pass the frozen weights together.
- The loss is cross-entropy on the target's tokens, minimised by Adam.
- In a stream the same maps go on training, with a fresh Adam for each batch (`adapter: one`);
  `one_per_batch` starts new ones beside those of earlier batches, which stay and are added.

Deviations:
- The common tool's file of this name holds AdaLoRA, whose ranks change during training; printed is
  plain LoRA.
- Dropout follows from its seed and each number's place, see `dropout`.
- Maps are float32 or wider. Processes that share a trial each run all its rows in a step: the maps
  stand in layers whose rows would else be divided, and their gradients would not meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.split import Split
from trainables.errors import ConfigError
from trainables.field_kinds import Count, Positive, ShareBelowOne, checked
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
from trainables.methods.lora.apart import MapsApart
from trainables.methods.lora.dropout import Dropout
from trainables.methods.lora.low_rank import LowRankMaps, Modules, adapted_paths
from trainables.optimise import (
    BatchRun,
    Optimisation,
    OptimiserSettings,
    TargetRows,
    begun,
    row_loss,
    row_means,
    stored_batch,
    token_losses,
)
from trainables.prompts import batch_from, row_index


@checked
class Config:
    """Settings of LoRA.

    Attributes:
        modules: What gets low-rank maps in every layer: the weights that make queries and values,
            or all of the FFN.
        adapter: In a stream, `one` goes on training, or `one_per_batch` is added.
        lora_rank: R.
        lora_alpha: What a map adds is scaled by lora_alpha / lora_rank.
        dropout: Share of a map's input that a training step leaves out.
        edit_lr: Adam's learning rate.
        num_steps: Most steps per batch of edits.
        stop_loss: A batch is done below this loss, nats per token; None: never early.
    """

    modules: Modules
    adapter: Literal["one", "one_per_batch"]
    lora_rank: Count
    lora_alpha: Positive
    dropout: ShareBelowOne
    edit_lr: Positive
    num_steps: Count
    stop_loss: float | None


_MOST_APART = 32  # edits side by side, as many rows as a batch has
_MOST_APART_BYTES = 2**28
_COPIES = 4  # of each map: itself, its gradient and Adam's two moments


class Lora:
    """Trains low-rank maps in all layers; the backbone stays frozen."""

    first_layer = 0
    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        if config.lora_rank > backbone.hidden_size:
            raise ConfigError(
                f"method.lora_rank is {config.lora_rank}; it must lie in "
                f"[1, {backbone.hidden_size}], the backbone's width"
            )
        self.num_steps = config.num_steps
        self._config = config
        self._generators = generators
        cache = artefacts.prefix_cache
        self._split = Split(backbone, 0, cache, has_batch_state=False, packs=True)
        self._unpacked = Split(backbone, 0, cache, has_batch_state=False)
        self._dropout = Dropout(config.dropout, backbone.micro_batch)
        self._maps = LowRankMaps(
            backbone,
            adapted_paths(backbone, config.modules),
            config.lora_rank,
            config.lora_alpha,
            generator=generators.init,
            drop=self._dropout,
        )
        self._run: BatchRun | None = None
        self._apart: MapsApart | None = None
        self._seed = 0  # of the dropout in this batch

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing is learned from other edits."""

    def begin(self, batch: EditBatch) -> None:
        """Add maps before the first batch, or before each, and set up Adam on them."""
        if not self._maps.is_attached:
            self._maps.attach()
        elif self._config.adapter == "one_per_batch":
            self._maps.keep()
        self._start(batch, self._drawn_seed())

    def begin_each(self, batch: EditBatch) -> None:
        """Add maps, and set up Adam on a copy of them for each edit by itself."""
        self._maps.attach()
        self._start_each(batch, self._drawn_seed())

    @property
    def most_side_by_side(self) -> int:
        """Edits whose maps, with gradients and Adam's moments, take a quarter of 2**30 bytes."""
        within = _MOST_APART_BYTES // (_COPIES * 4 * self._maps.num_trained)
        return max(1, min(_MOST_APART, within))

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` Adam steps; True when the batch is done."""
        try:
            if self._apart is not None:
                return self._apart.advance(max_steps)
            return begun(self._run).advance(max_steps)
        finally:
            self._dropout.seed, self._dropout.is_apart = None, False

    def finish(self) -> EditReport:
        """Freeze the maps until the next batch."""
        report = begun(self._run).report()
        self._maps.freeze()
        self._run = None
        return report

    def finish_each(self) -> list[EditReport]:
        """The reports; all maps are frozen already."""
        return begun(self._apart).reports()

    def take(self, number: int) -> None:
        """Put the maps of one edit in place."""
        begun(self._apart).take(number)

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the maps, nothing of which is left out."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """The maps and the generators; the optimisation too when a batch is under way."""
        state = State(
            {
                "generator_init": self._generators.init.get_state(),
                "generator_noise": self._generators.noise.get_state(),
            }
        )
        state.nest("maps", self._maps.state())
        if self._run is not None:
            state.values["seed"] = self._seed
            self._run.store(state)
        if self._apart is not None:
            state.values["seed"] = self._seed
            state.nest("apart", self._apart.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.remove()
        self._maps.load(state.inner("maps"))
        batch = stored_batch(state, self._split.backbone.device)
        if batch is not None:
            seed = state.values["seed"]
            assert isinstance(seed, int)
            self._start(batch, seed).resume(state)
        if "apart" in state.values:
            inner, seed = state.inner("apart"), state.values["seed"]
            assert isinstance(seed, int)
            batch = batch_from(inner.inner("batch"), self._split.backbone.device)
            self._start_each(batch, seed).resume(inner)
        # Last: making the maps above drew from one of them.
        self._generators.init.set_state(state.tensors["generator_init"].cpu())
        self._generators.noise.set_state(state.tensors["generator_noise"].cpu())

    def remove(self) -> None:
        """Take the maps out of the backbone and forget all edits."""
        self._maps.remove()
        self._run = self._apart = None

    def _drawn_seed(self) -> int:
        return int(torch.randint(2**62, (), generator=self._generators.noise))

    def _settings(self) -> OptimiserSettings:
        config = self._config
        return OptimiserSettings("adam", config.edit_lr, config.num_steps, config.stop_loss)

    def _start_each(self, batch: EditBatch, seed: int) -> MapsApart:
        """Set up the optimisation of maps for each edit."""
        split, micro_batch = self._unpacked, self._split.backbone.micro_batch
        hidden, newest = split.hidden(batch.tokens), list[_Part]()

        def losses(numbers: Tensor) -> Tensor:
            self._dropout.seed = seed + apart.optimisation.steps_taken
            self._dropout.is_apart = True
            if not newest or newest[0].numbers is not numbers:
                newest[:] = [_part(batch, hidden, numbers)]
            part = newest[0]
            with micro_batch.undivided():
                found = split.per_token(token_losses, part.tokens, part.labels, hidden=part.hidden)
            return row_means(found, part.rows)

        settings = self._settings()
        apart = MapsApart(batch, self._maps, losses, settings, micro_batch.agreed)
        self._apart, self._seed = apart, seed
        return apart

    def _start(self, batch: EditBatch, seed: int) -> BatchRun:
        """Set up the optimisation of all maps."""
        tokens, rows = batch.tokens, TargetRows.of(row_index(batch.tokens))
        hidden = self._split.hidden(tokens)
        micro_batch = self._split.backbone.micro_batch

        def loss() -> Tensor:
            # It stays until the step has gone back, where rows may run once more.
            self._dropout.seed = seed + run.optimisation.steps_taken
            with micro_batch.undivided():
                losses = self._split.per_token(token_losses, tokens, batch.labels, hidden=hidden)
            return row_loss(losses, rows)

        run = BatchRun(
            batch,
            Optimisation(self._maps.thaw(), loss, self._settings(), agreed=micro_batch.agreed),
        )
        self._run, self._seed = run, seed
        return run


@dataclass(frozen=True)
class _Part:
    """Some edits of a batch: their numbers, rows, target tokens and hidden states."""

    numbers: Tensor
    tokens: PromptBatch
    labels: Tensor
    rows: TargetRows
    hidden: Tensor


def _part(batch: EditBatch, hidden: Tensor, numbers: Tensor) -> _Part:
    """The edits with these `numbers` (n,), on the host; `hidden` (B, T, D) is of all."""
    each, tokens = batch.labels.split(batch.tokens.scored_counts), batch.tokens.rows(numbers)
    labels = torch.cat([each[number] for number in numbers.tolist()])
    rows = TargetRows.of(row_index(tokens))
    return _Part(numbers, tokens, labels, rows, hidden[numbers.to(hidden.device)])


CONFIG = Config
METHOD = Lora
VERSION = 4  # they train side by side where rolled back; bytes of a single edit are its own
