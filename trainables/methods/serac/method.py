"""SERAC: a memory of edits, a classifier of their scope, and a small model that answers inside it.

Source: Mitchell et al., "Memory-Based Model Editing at Scale" (arXiv:2206.06520).

    i = argmax_i p(edit_i, x),  logits(x) = counterfactual(edit_i, x) where p(edit_i, x) > 1/2,
                                            backbone(x) elsewhere

Classifier (`scope.py`) and counterfactual model (`counterfactual.py`) are trained once, apart from
each other, on records that no trial is scored on; an edit is a line in the memory, and the backbone
is never changed. Which edit a prompt is about is read from the prompt alone, decided once and kept
while decoding. Of several edits of one prompt the latest counts.

Deviations:
- `switch: hard` is the paper's. `soft` is what EasyEdit runs under its own settings, from which the
  numbers of MEMoE are likely to come: p itself is the share of the counterfactual model.
- The classifier's encoder is not trained, but for a matrix behind it: a small sentence encoder, or
  the mean of the backbone's input embeddings. The papers take a distilbert and train it whole.
- The counterfactual model is made of the backbone's first layers instead of being another
  pretrained one (llama-160m for LLaMA, gpt2 for GPT2-XL): it has its tokens on every backbone.
- `random_targets`: in so many training rows some words out of other training texts take the place
  of the target. A few hundred records would otherwise teach which answers there are, and not to
  repeat what is shown.
- The public code's loss also holds the answers to unrelated questions; with a hard switch no
  gradient comes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.assemblies.edit_texts import EditTexts, checked_template
from trainables.assemblies.text_encoder import EncoderName, TextEncoder
from trainables.assemblies.trainer import TrainerSettings, trained
from trainables.backbones.forward.split import Split
from trainables.errors import ConfigError
from trainables.field_kinds import Count, Positive, Share, ShareBelowOne, checked
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    Generators,
    Json,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.methods.serac.counterfactual import Counterfactual, spans_of
from trainables.methods.serac.mixture import Share as Shares
from trainables.methods.serac.mixture import mixed
from trainables.methods.serac.scope import ScopeClassifier, scope_loss, similarity, texts_of
from trainables.methods.serac.training import ModuleTraining, take
from trainables.optimise import begun
from trainables.prompts import batch_from, batch_state
from trainables.seeding import derived_seed

_IN_SCOPE = 0.5
Maker = Callable[[Sequence[TrainingRecord]], ModuleTraining]


@checked
class Config:
    """Settings of SERAC.

    Attributes:
        encoder: What the scope classifier reads texts with.
        switch: Whether a prompt in scope is answered by the counterfactual model alone.
        counterfactual_layers: First layers of the backbone that this model is made of.
        template: Of an edit's text before a prompt, with {prompt} and {target}.
        random_targets: Share of training rows in which other words are the target.
        scope_lr: Adam's rate on the classifier.
        scope_steps: Most steps of its training.
        counterfactual_lr: Adam's rate on the counterfactual model.
        counterfactual_steps: Most steps of its training.
        records_per_step: Records of a step of either.
        max_norm: A longer gradient is cut to this.
        validate_every: Steps between two looks at the records that are held out.
        patience: Steps without a gain there that end a training.
        held_out: Share of the training records that is held out.
        most_held_out: Most records of it.
        training_seed: Of both; it is the same for all seeds of a trial.
    """

    encoder: EncoderName
    switch: Literal["hard", "soft"]
    counterfactual_layers: Count
    template: str
    random_targets: Share
    scope_lr: Positive
    scope_steps: Count
    counterfactual_lr: Positive
    counterfactual_steps: Count
    records_per_step: Count
    max_norm: Positive
    validate_every: Count
    patience: Count
    held_out: ShareBelowOne
    most_held_out: Count
    training_seed: int

    def __post_init__(self) -> None:
        checked_template(self.template)


@dataclass(frozen=True)
class _Route:
    """What was decided for B prompts: the edit of each, or -1, and the second model's share."""

    edits: Tensor
    share: Shares


class Serac:
    """Answers prompts in scope of an edit by a small model that is shown it."""

    num_steps = 0
    changes_in_finish = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        if config.counterfactual_layers > backbone.num_layers:
            raise ConfigError(
                f"method.counterfactual_layers is {config.counterfactual_layers}; it must lie in "
                f"[1, {backbone.num_layers}], the backbone's layers"
            )
        # Nothing changes, so everything below the last layer may come from the cache.
        self.first_layer = backbone.num_layers - 1
        self._config, self._backbone, self._artefacts = config, backbone, artefacts
        cache = artefacts.prefix_cache
        self._split = Split(backbone, self.first_layer, cache, has_batch_state=False)
        self._encoder = TextEncoder(config.encoder, backbone, artefacts)
        self._centre = self._encoder.centre()
        self._classifier = ScopeClassifier(self._encoder.size).to(backbone.device)
        self._classifier.requires_grad_(False)
        self._small = Counterfactual(backbone, config.counterfactual_layers, config.template)
        self._forget()

    def _forget(self) -> None:
        self._memory = EditTexts(self._encoder.size, self._backbone.device)
        self._batch: EditBatch | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Both networks, from the store or trained.

        Raises:
            DataError: If there are too few records to train them on.
            EditDiverged: If a training diverges.
        """
        prompts = list(dict.fromkeys(record.edit.prompt for record in training))
        self._centre = self._encoder.centre(prompts)
        take(dict(self._classifier.named_parameters()), self._scope(training))
        take(self._small.trainable(), self._counterfactual(training))
        self._small.freeze()

    def begin(self, batch: EditBatch) -> None:
        """Take the batch."""
        self._batch = batch

    def advance(self, max_steps: int) -> bool:
        """Done at once."""
        return True

    @torch.no_grad()
    def finish(self) -> EditReport:
        """Remember the edits of the batch."""
        batch = begun(self._batch)
        units = self._units(self._encoder.texts([edit.prompt for edit in batch.edits]))
        self._memory.add(batch.edits, self._classifier(units))
        self._batch = None
        return EditReport(num_edits=len(batch))

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone or, in scope of an edit, of the counterfactual model.

        Raises:
            BackboneError: If a row with its text is longer than the backbone has positions.
        """
        kept = state.route if state is not None else None
        if kept is None and not len(self._memory):
            return self._split.logits(prompts, state)
        route = self._decided(prompts) if kept is None else kept

        def plainly(
            rows: PromptBatch, _: Tensor, own: DecodeState | None
        ) -> tuple[Tensor, DecodeState]:
            return self._split.logits(rows, own)

        def told(
            rows: PromptBatch, numbers: Tensor, own: DecodeState | None
        ) -> tuple[Tensor, DecodeState]:
            shown = rows if kept is not None else self._shown(rows, route.edits[numbers])
            return self._small.split.logits(shown, own)

        logits, after = mixed(prompts, route.share, (plainly, told), state)
        if state is not None:
            after.route = route
        return logits, after

    def routes(self, prompts: PromptBatch) -> Tensor:
        """Number of the edit in whose scope each prompt is, (B,); -1: none."""
        nearest, near = self._nearest(prompts)
        return torch.where(near > _IN_SCOPE, nearest, -1)

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the one that answers its prompt now: the latest of it."""
        return self._memory.latest()

    def state(self) -> State:
        """The memory, and the batch when one is under way; the networks lie in the store."""
        state = State()
        state.nest("memory", self._memory.state())
        if self._batch is not None:
            state.nest("batch", batch_state(self._batch))
        return state

    def load(self, state: State) -> None:
        """Continue from `state`; `prepare` comes first."""
        self._memory.load(state.inner("memory"))
        self._batch = None
        if "batch" in state.values:
            self._batch = batch_from(state.inner("batch"), self._backbone.device)

    def remove(self) -> None:
        """Forget all edits; the backbone itself was never changed."""
        self._forget()

    def inference_bytes(self) -> int:
        """Both networks, and the memory's keys and texts."""
        scope = sum(parameter.nbytes for parameter in self._classifier.parameters())
        return self._small.num_bytes + scope + self._encoder.num_bytes + self._memory.num_bytes

    def _scope(self, training: Sequence[TrainingRecord]) -> State:
        """The trained classifier."""
        shaped: dict[str, Json] = {**self._encoder.identity, "lr": self._config.scope_lr}

        def make(learned: Sequence[TrainingRecord]) -> ModuleTraining:
            texts = texts_of(training)
            units = self._units(self._encoder.texts(texts))
            embedded = dict(zip(texts, units, strict=True))
            network = ScopeClassifier(self._encoder.size).to(self._backbone.device)
            return ModuleTraining(
                network,
                lambda records, draws: scope_loss(network, embedded, records, draws),
                training_lr=self._config.scope_lr,
                max_norm=self._config.max_norm,
            )

        return self._trained("serac_scope", shaped, training, self._config.scope_steps, make)

    def _counterfactual(self, training: Sequence[TrainingRecord]) -> State:
        """The trained counterfactual model."""
        config = self._config
        shaped: dict[str, Json] = {
            "lr": config.counterfactual_lr,
            "layers": config.counterfactual_layers,
            "template": config.template,
            "random_targets": config.random_targets,
        }

        def make(learned: Sequence[TrainingRecord]) -> ModuleTraining:
            small = Counterfactual(self._backbone, config.counterfactual_layers, config.template)
            small.trainable()
            spans = spans_of(learned)
            return ModuleTraining(
                small.backbone.model,
                lambda records, draws: small.loss(records, spans, config.random_targets, draws),
                training_lr=config.counterfactual_lr,
                max_norm=config.max_norm,
            )

        steps = config.counterfactual_steps
        return self._trained("serac_counterfactual", shaped, training, steps, make)

    def _trained(
        self,
        kind: str,
        shaped: dict[str, Json],
        training: Sequence[TrainingRecord],
        num_steps: int,
        make: Maker,
    ) -> State:
        config = self._config
        settings = TrainerSettings(
            name="serac",
            num_steps=num_steps,
            records_per_step=config.records_per_step,
            validate_every=config.validate_every,
            patience=config.patience,
            held_out=config.held_out,
            most_held_out=config.most_held_out,
            seed=derived_seed(config.training_seed, kind),
        )
        inputs = self._backbone.identity | shaped | {"method": VERSION, "max_norm": config.max_norm}
        return trained(self._artefacts, kind, inputs, training, settings, make)

    def _units(self, embedded: Tensor) -> Tensor:
        """Embeddings (N, D) centred and of length 1, in float32 as the classifier is."""
        return nn.functional.normalize(embedded - self._centre, dim=-1).float()

    @torch.no_grad()
    def _nearest(self, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """The likeliest edit of each prompt, (B,), -1 where there is none, and its probability."""
        if not len(self._memory):
            index = torch.full_like(prompts.prompt_lengths, -1)
            return index, torch.zeros_like(index, dtype=torch.float32)
        found = self._memory.nearest(self._classifier(self._units(self._encoder.prompts(prompts))))
        return found.index, similarity(found.distance)

    def _decided(self, prompts: PromptBatch) -> _Route:
        edits, near = (values.cpu() for values in self._nearest(prompts))
        share = near if self._config.switch == "soft" else (near > _IN_SCOPE).float()
        return _Route(edits, Shares(share))

    def _shown(self, rows: PromptBatch, edits: Tensor) -> PromptBatch:
        """`rows` with the text of an edit before each."""
        return self._small.texts.put(rows, [self._memory.edits[n] for n in edits.tolist()])


VERSION = 2  # rows are packed where they train
CONFIG = Config
METHOD = Serac
