"""Retrieval: the text of the edit that a prompt is about, before the prompt; nothing is trained.

No paper's method, but the bound that an editor should be held against: what the unedited model
makes of an edit when it is told of it. Of editing in context (IKE, arXiv:2305.12740) it is what is
left without demonstrations: the edit alone is shown, and only to prompts that a memory finds near.

    near(x) = the edit with the largest cosine of its prompt's embedding and x's
    logits(x) = model(text of near(x), x) where that cosine >= threshold, else model(x)

The text is `template` with the edit's prompt and target. The decision reads the prompt alone, is
taken once and kept while decoding. Of several edits of one prompt the latest counts.

Choices:
- Embeddings (`encoder`): those of a small sentence encoder, or the mean of the backbone's input
  embeddings, centred on that of training edits. Either way the key is of the edit's prompt: a query
  holds no target to be compared with.
- `threshold: null` takes the one that best tells the rephrases of training edits, which are never
  scored, from unrelated questions and from other edits (assemblies/scope_examples.py).
- The default `template` calls the edit a new fact; on SmolLM2-135M that took reliability from .78,
  with the edit alone on a line of its own, to 1. The prompt's tokens follow it as they are.
- A row that becomes longer than the backbone has positions ends the trial with an error: no part of
  a text is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.assemblies.edit_texts import EditTexts, TextsInFront, checked_template
from trainables.assemblies.scope_examples import ScopeExamples, nearness_threshold
from trainables.assemblies.text_encoder import EncoderName, TextEncoder
from trainables.backbones.forward.split import Split
from trainables.errors import BackboneError, ConfigError
from trainables.field_kinds import Cosine, checked
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
from trainables.optimise import begun
from trainables.prompts import batch_from, batch_state

_MOST_EXAMPLES = 1000  # training records that choose the threshold


@checked
class Config:
    """Settings of retrieval.

    Attributes:
        encoder: What says how near two prompts are.
        threshold: Least cosine at which an edit's text is shown; None: chosen on training edits.
        template: The text, with {prompt} and {target}.
    """

    encoder: EncoderName
    threshold: Cosine | None
    template: str

    def __post_init__(self) -> None:
        checked_template(self.template)


class Retrieval:
    """Shows prompts the edits that they are about; the backbone is never changed."""

    num_steps = 0
    changes_in_finish = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        # Nothing changes, so everything below the last layer may come from the cache.
        self.first_layer = backbone.num_layers - 1
        self._config = config
        self._backbone = backbone
        self._artefacts = artefacts
        cache = artefacts.prefix_cache
        self._split = Split(backbone, self.first_layer, cache, has_batch_state=False)
        self._encoder = TextEncoder(config.encoder, backbone, artefacts)
        self._centre = self._encoder.centre()
        self._threshold = config.threshold
        self._texts = TextsInFront(backbone, config.template)
        self._memory = EditTexts(self._encoder.size, backbone.device)
        self._batch: EditBatch | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Centre the embeddings and choose the threshold on `training`, none of which is edited.

        Raises:
            ConfigError: If a threshold is to be chosen and there is nothing to choose it on.
        """
        examples = ScopeExamples.of(training, _MOST_EXAMPLES)
        if not examples.edits:
            if self._threshold is None:
                raise ConfigError(
                    "method.threshold is null: it is chosen on edits that are not scored, and "
                    "there are none; give one in [-1, 1]"
                )
            return

        def build() -> State:
            centre = self._encoder.centre([prompt for prompt, _ in examples.edits])
            found = nearness_threshold(examples, lambda texts: self._units(texts, centre))
            return State({"centre": centre}, {"threshold": found})

        inputs = {**self._backbone.identity, **self._encoder.identity, "texts": examples.digest}
        made = self._artefacts.get("nearness", {**inputs, "version": VERSION}, build)
        self._centre = made.tensors["centre"].to(self._centre)
        if self._threshold is None:
            self._threshold = float(made.values["threshold"])  # type: ignore[arg-type]

    def begin(self, batch: EditBatch) -> None:
        """Take the batch."""
        self._batch = batch

    def advance(self, max_steps: int) -> bool:
        """Done at once."""
        return True

    def finish(self) -> EditReport:
        """Remember the edits of the batch."""
        batch = begun(self._batch)
        keys = self._units([edit.prompt for edit in batch.edits], self._centre)
        self._memory.add(batch.edits, keys)
        self._batch = None
        return EditReport(num_edits=len(batch), numbers={"threshold": self._least_cosine})

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """The backbone's logits (M, V) with the edits' texts in front, chosen once per prompt.

        Raises:
            BackboneError: If a row with its text, and what was generated, is longer than the
                backbone has positions.
        """
        if state is not None and state.route is not None:
            assert state.attention_mask is not None  # the prompt's, which the route was taken on
            self._check_width(state.attention_mask.shape[1] + prompts.input_ids.shape[1])
            return self._split.logits(prompts, state)
        chosen = self.routes(prompts)
        shown = [None if n < 0 else self._memory.edits[n] for n in chosen.tolist()]
        whole = self._texts.put(prompts, shown)
        self._check_width(whole.input_ids.shape[1])
        logits, after = self._split.logits(whole, state)
        if state is not None:
            after.route = chosen
        return logits, after

    @torch.no_grad()
    def routes(self, prompts: PromptBatch) -> Tensor:
        """Number of the edit whose text each prompt is shown, (B,); -1: none."""
        if not len(self._memory):
            return torch.full_like(prompts.prompt_lengths, -1)
        queries = nn.functional.normalize(self._encoder.prompts(prompts) - self._centre, dim=-1)
        nearest = self._memory.nearest(queries)
        return nearest.within(nearest.cosine >= self._least_cosine - _ROUNDING)

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the one that answers its prompt now: the latest of it."""
        return self._memory.latest()

    def state(self) -> State:
        """The memory with its centre and threshold; the batch too when one is under way."""
        state = State({"centre": self._centre}, {"threshold": self._threshold})
        state.nest("memory", self._memory.state())
        if self._batch is not None:
            state.nest("batch", batch_state(self._batch))
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._centre = state.tensors["centre"].to(self._centre)
        self._threshold = state.values["threshold"]  # type: ignore[assignment]
        self._memory.load(state.inner("memory"))
        self._batch = None
        if "batch" in state.values:
            self._batch = batch_from(state.inner("batch"), self._backbone.device)

    def remove(self) -> None:
        """Forget all edits; the backbone itself was never changed."""
        self._memory = EditTexts(self._encoder.size, self._backbone.device)
        self._batch = None

    def inference_bytes(self) -> int:
        """The memory, keys and texts, and what embeds a prompt beside the backbone."""
        return self._memory.num_bytes + self._encoder.num_bytes

    @property
    def _least_cosine(self) -> float:
        assert self._threshold is not None  # `prepare` has chosen one
        return self._threshold

    def _check_width(self, width: int) -> None:
        limit = self._backbone.max_positions
        if limit is not None and width > limit:
            raise BackboneError(
                f"a row of {width} tokens, with an edit's text in front, is longer than the "
                f"{limit} positions of the backbone"
            )

    def _units(self, texts: Sequence[str], centre: Tensor) -> Tensor:
        """Embeddings of texts, centred and of length 1, (N, D)."""
        return nn.functional.normalize(self._encoder.texts(texts) - centre, dim=-1)


_ROUNDING = 1e-6  # a cosine of 1 may come out a little less
VERSION = 2  # bytes count a sentence encoder
CONFIG = Config
METHOD = Retrieval
