"""What MEMIT and AlphaEdit share: vectors of a batch, spread over some FFN output projections.

A method says in a `ClosedForm` how the change of one projection is solved for. What both say of
vectors, contexts, second moments and refused layers stands in `methods/memit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import Moments, stored_contexts, stored_moments
from trainables.assemblies.spread_vectors import Search, VectorRun, below_last, spread
from trainables.assemblies.vectors_apart import VectorsApart
from trainables.backbones.families import check_ffn_is_added
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.subject_rows import KlPosition, edits_at_once
from trainables.backbones.hidden_states.subject_vectors import VectorSettings
from trainables.backbones.written_weights import WrittenWeights
from trainables.errors import DataError
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.optimise import begun, stored_batch


@dataclass(frozen=True)
class SpreadSettings:
    """What both methods set; their Configs say what it means."""

    layers: tuple[int, ...]
    v_lr: float
    v_num_steps: int
    v_weight_decay: float
    stop_loss: float
    clamp: float
    kl_weight: float
    kl_position: KlPosition
    contexts: int
    context_length: int
    covariance_tokens_per_dim: int
    covariance_text: str | None
    accumulate_keys: bool

    @classmethod
    def from_config(cls, config: object) -> SpreadSettings:
        """The shared fields of a method's Config."""
        return cls(**{name: vars(config)[name] for name in cls.__dataclass_fields__})


class ClosedForm(Protocol):
    """How the change of one layer's projection follows from keys and residuals."""

    def prepare(self, moments: Moments, artefacts: Artefacts) -> None:
        """Take the second moments of the layers' keys; comes before the two below.

        Raises:
            ConfigError: If the settings leave nothing to write.
        """
        ...

    def update(self, layer: int, keys: Tensor, residuals: Tensor, earlier: Tensor | None) -> Tensor:
        """The change of the weight, (D, F) float64.

        Args:
            layer: Whose projection is written.
            keys: K, (F, N) float64.
            residuals: R, (D, N) float64: what the outputs at those keys should gain.
            earlier: Sum of K K^T over earlier batches, (F, F) float64; None: there is none.

        Raises:
            EditDiverged: If it cannot be solved.
        """
        ...

    def directions(self, layer: int, keys: Tensor) -> Tensor:
        """Of each key alone, (N, F) float64, the x with which r x^T is its change, (N, F)."""
        ...

    def completed(self, report: EditReport) -> EditReport:
        """`report`, with what the closed form has to say."""
        ...


class SpreadEditor:
    """Least-squares updates of FFN output projections."""

    changes_in_finish = True

    def __init__(
        self,
        name: str,
        settings: SpreadSettings,
        backbone: Backbone,
        artefacts: Artefacts,
        closed_form: ClosedForm,
    ) -> None:
        """Nothing is written yet.

        Raises:
            BackboneError: If a norm stands between the FFN's output and the residual stream.
            ConfigError: If the last layer is among those to be written.
        """
        check_ffn_is_added(backbone.family, name)
        self._layers = below_last(settings.layers, backbone.num_layers)
        self.first_layer = self._layers[0]
        self.num_steps = settings.v_num_steps
        self._name, self._settings = name, settings
        self._backbone, self._artefacts = backbone, artefacts
        self._closed_form = closed_form
        self._weights = WrittenWeights(
            backbone, {str(layer): backbone.down_path(layer) for layer in self._layers}
        )
        self._split = Split(backbone, self.first_layer, artefacts.prefix_cache)
        self._earlier: dict[int, Tensor] = {}  # sum of K K^T, (F, F) float64
        self._contexts: tuple[str, ...] = ()
        self._is_sampled = self._is_prepared = False
        self._run: VectorRun | None = None
        self._apart: VectorsApart | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Second moments and contexts of the pristine backbone, through artefacts.

        Raises:
            ConfigError: If the settings leave nothing to write.
            DataError: If `covariance_text` holds no text.
        """
        del training  # second moments are of ordinary text
        settings, split, store = self._settings, self._split, self._artefacts
        moments = stored_moments(
            split, store, self._layers, settings.covariance_tokens_per_dim, settings.covariance_text
        )
        self._closed_form.prepare(moments, store)
        self._contexts = stored_contexts(split, store, settings.contexts, settings.context_length)
        self._is_sampled, self._is_prepared = moments.is_sampled, True

    def begin(self, batch: EditBatch) -> None:
        """Set up one vector for each edit; no weight changes before `finish`.

        Raises:
            DataError: If `prepare` has not run.
        """
        self._run = self._vectors(batch)
        self.num_steps = self._run.num_steps

    def begin_each(self, batch: EditBatch) -> None:
        """Set up one vector for each edit, whose weights will be its own.

        Raises:
            DataError: If `prepare` has not run.
        """
        run = self._vectors(batch)
        self._apart, self.num_steps = VectorsApart(run), run.num_steps

    @property
    def most_side_by_side(self) -> int:
        """Edits whose rows run all at once."""
        with_kl = self._settings.kl_weight > 0
        return edits_at_once(self._backbone, len(self._contexts), with_kl=with_kl)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` updates of the vectors; True when they are found."""
        run = begun(self._run) if self._apart is None else self._apart.run
        return run.advance(max_steps)

    @torch.no_grad()
    def finish(self) -> EditReport:
        """Write the weights, layer by layer."""
        run = begun(self._run)
        for layer, keys, residuals in spread(self._backbone, run, self._layers):
            earlier = self._earlier.get(layer)
            update = self._closed_form.update(layer, keys, residuals, earlier)
            self._weights.add(str(layer), update)
            if self._settings.accumulate_keys:
                products = keys @ keys.T
                self._earlier[layer] = products if earlier is None else earlier + products
        self._run = None
        return self._closed_form.completed(run.report(self._is_sampled))

    def finish_each(self) -> list[EditReport]:
        """Find what each edit alone writes; it is written when it is taken."""
        apart = begun(self._apart)
        apart.spread(self._backbone, self._layers, self._closed_form.directions)
        return [self._closed_form.completed(each) for each in apart.run.reports(self._is_sampled)]

    def take(self, number: int) -> None:
        """Write one edit alone, if `finish_each` has come.

        Raises:
            EditDiverged: If its change of a weight is not finite.
        """
        begun(self._apart).write(self._weights, number)

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the written weights."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """The weights and remembered keys; the vectors when a batch is under way."""
        if self._apart is not None:  # the weights are those of the edit that was taken
            state = State(values={"is_apart": True})
            self._apart.run.store(state)
            return state
        state = State(self._weights.tensors())
        for layer, products in self._earlier.items():
            state.tensors[f"earlier/{layer}"] = products
        if self._run is not None:
            self._run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`; `prepare` comes first."""
        self.remove()
        device = self._backbone.device
        batch = stored_batch(state, device)
        if batch is not None and "is_apart" in state.values:
            self.begin_each(batch)
            begun(self._apart).run.resume(state)
            return
        self._weights.load(state.tensors)
        self._earlier = {
            layer: state.tensors[f"earlier/{layer}"].to(device).clone()
            for layer in self._layers
            if f"earlier/{layer}" in state.tensors
        }
        if batch is not None:
            self.begin(batch)
            begun(self._run).resume(state)

    def remove(self) -> None:
        """Put the pristine weights back, bit for bit."""
        self._weights.restore()
        self._earlier, self._run, self._apart = {}, None, None

    def inference_bytes(self) -> int:
        """The weights as the backbone holds them; remembered keys serve further edits alone."""
        return self._weights.num_bytes

    def _vectors(self, batch: EditBatch) -> VectorRun:
        if not self._is_prepared:
            raise DataError(
                f"{self._name} has no second moments: prepare() comes before the first edit"
            )
        config = self._settings
        search = Search(
            config.v_lr,
            config.v_num_steps,
            VectorSettings(config.v_weight_decay, config.stop_loss, config.clamp, config.kl_weight),
            config.kl_position,
        )
        return VectorRun(self._backbone, batch, self._contexts, self._layers[-1], search)
