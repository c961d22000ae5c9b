"""AlphaEdit: MEMIT whose changes stay out of the directions that ordinary text uses.

Source: Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models"
(arXiv:2410.02355), and its public code. No text of the paper was at hand: the equations are those
of the code, which solves what the paper gives as the closed form of its objective. Vectors are
found and spread over the layers as MEMIT does (`assemblies/spread_vectors.py`); the change of one
projection is

    R X^T with (P (K K^T + C_prev) + l2_weight * I) X = P K.

P is the projector onto those eigenvectors of the second moment C = E[k k^T] whose eigenvalue is
below `null_threshold`, and C_prev the sum of K K^T over all earlier batches. As X lies in the range
of P, with U the (F, r) basis of that range it is

    X = U Y with (U^T (K K^T + C_prev) U + l2_weight * I) Y = U^T K,

which is solved instead: symmetric, positive definite and of size r.

Choices where the source is silent, and deviations:
- The threshold is in the units of C, as published; another backbone needs one of its own.
  `number.null_share` says which share of the directions is free, averaged over layers. Where all of
  them are, `nothing_protected` counts it; where none is, the method is refused.
- `accumulate_keys: false` leaves C_prev out.
- The public code's `mom2_update_weight` is not read by its solver, so there is no weight of C here.
- Edits that are each rolled back (`single`) are found and spread side by side, each for weights of
  its own; for one key the closed form is U p / (p . p + l2_weight) with p = U^T k.
- C, the contexts, an absent subject, `kl_position`, `v_num_steps`, low precision, the last layer
  and families with a norm behind the FFN: as `memit.py` says.
- In the public code C_prev gets the keys of the edited model, after all layers are written. Keys of
  a layer depend on lower layers alone, so these are the keys that were written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import (
    Spectrum,
    check_text,
    stored_contexts,
    stored_moments,
    stored_spectra,
)
from trainables.assemblies.spread_vectors import (
    Search,
    VectorRun,
    below_last,
    check_listed,
    spread,
)
from trainables.assemblies.vectors_apart import VectorsApart, null_space_directions
from trainables.backbones.families import check_ffn_is_added
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import solved
from trainables.backbones.hidden_states.subject_rows import KlPosition, edits_at_once
from trainables.backbones.hidden_states.subject_vectors import VectorSettings
from trainables.backbones.written_weights import WrittenWeights
from trainables.errors import ConfigError, DataError
from trainables.field_kinds import Count, CountOrZero, Positive, PositiveOrZero, checked
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    Family,
    Generators,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.optimise import begun, stored_batch


@checked
class Config:
    """Settings of AlphaEdit.

    Attributes:
        layers: Decoder layers whose FFN output projections are written, from 0; not the last one.
        v_lr: Adam's learning rate on the vectors.
        v_num_steps: Most updates of the vectors of one batch.
        v_weight_decay: Weight of |delta| / |h|^2.
        stop_loss: An edit below it is not moved any more; nats.
        clamp: Largest |delta| as a multiple of |h|.
        kl_weight: Weight of the term that keeps "{subject} is a"; 0: without it, and cheaper.
        kl_position: Token of that prompt whose prediction is kept.
        null_threshold: Eigenvalues of C below it leave their direction free; squared activations.
        l2_weight: Weight of the change's own square against one edit's residual.
        accumulate_keys: Whether keys of earlier batches are protected too.
        contexts: Sampled prefixes beside the bare prompt.
        context_length: Tokens of such a prefix.
        covariance_tokens_per_dim: Tokens that C is made from, per key dimension.
        covariance_text: Text file for C, one passage a line; None: the checkpoint's own text, or
            one that the backbone samples.
    """

    layers: tuple[int, ...]
    v_lr: Positive
    v_num_steps: Count
    v_weight_decay: PositiveOrZero
    stop_loss: PositiveOrZero
    clamp: Positive
    kl_weight: PositiveOrZero
    kl_position: KlPosition
    null_threshold: Positive
    l2_weight: Positive
    accumulate_keys: bool
    contexts: CountOrZero
    context_length: Count
    covariance_tokens_per_dim: Count
    covariance_text: str | None

    def __post_init__(self) -> None:
        check_listed(self.layers)
        check_text(self.covariance_text)


def check_family(family: Family) -> None:
    """Refuse a family whose FFN output passes a norm before it reaches the residual stream.

    Raises:
        BackboneError: If it does.
    """
    check_ffn_is_added(family, "alphaedit")


class AlphaEdit:
    """Least-squares updates of FFN output projections within the null space of C."""

    changes_in_finish = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        check_family(backbone.family)
        self._layers = below_last(config.layers, backbone.num_layers)
        self.first_layer = self._layers[0]
        self.num_steps = config.v_num_steps
        self._config = config
        self._backbone = backbone
        self._artefacts = artefacts
        self._weights = WrittenWeights(
            backbone, {str(layer): backbone.down_path(layer) for layer in self._layers}
        )
        self._split = Split(backbone, self.first_layer, artefacts.prefix_cache)
        self._bases: dict[int, Tensor] = {}  # U, (F, r) float32, in host memory
        self._earlier: dict[int, Tensor] = {}  # C_prev, (F, F) float64
        self._contexts: tuple[str, ...] = ()
        self._is_sampled = False
        self._run: VectorRun | None = None
        self._apart: VectorsApart | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Free directions and contexts of the pristine backbone, through artefacts.

        Raises:
            ConfigError: If no direction of a layer is below `null_threshold`.
            DataError: If `covariance_text` holds no text.
        """
        del training  # C is of ordinary text
        config, split, store = self._config, self._split, self._artefacts
        moments = stored_moments(
            split, store, self._layers, config.covariance_tokens_per_dim, config.covariance_text
        )
        self._is_sampled = moments.is_sampled
        self._bases = free_bases(stored_spectra(store, moments), config.null_threshold)
        self._contexts = stored_contexts(split, store, config.contexts, config.context_length)

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
        return edits_at_once(
            self._backbone, len(self._contexts), with_kl=self._config.kl_weight > 0
        )

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` updates of the vectors; True when they are found."""
        run = begun(self._run) if self._apart is None else self._apart.run
        return run.advance(max_steps)

    @torch.no_grad()
    def finish(self) -> EditReport:
        """Write the weights, layer by layer."""
        run = begun(self._run)
        for layer, keys, residuals in spread(self._backbone, run, self._layers):
            self._write(layer, keys, residuals)
        self._run = None
        return self._completed(run.report(self._is_sampled))

    def finish_each(self) -> list[EditReport]:
        """Find what each edit alone writes; it is written when it is taken."""
        apart = begun(self._apart)
        apart.spread(self._backbone, self._layers, self._directions)
        return [self._completed(report) for report in apart.run.reports(self._is_sampled)]

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
        """The weights and C_prev; the vectors when a batch is under way."""
        if self._apart is not None:  # the weights are those of the edit that was taken
            state = State()
            self._apart.run.store(state)
            state.values["is_apart"] = True
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
        """The weights as the backbone holds them, and C_prev."""
        return self._weights.num_bytes + sum(products.nbytes for products in self._earlier.values())

    def _vectors(self, batch: EditBatch) -> VectorRun:
        config = self._config
        if not self._bases:
            raise DataError("alphaedit has no null space: prepare() comes before the first edit")
        search = Search(
            config.v_lr,
            config.v_num_steps,
            VectorSettings(config.v_weight_decay, config.stop_loss, config.clamp, config.kl_weight),
            config.kl_position,
        )
        return VectorRun(self._backbone, batch, self._contexts, self._layers[-1], search)

    def _directions(self, layer: int, keys: Tensor) -> Tensor:
        return null_space_directions(keys, self._bases[layer].to(keys), self._config.l2_weight)

    def _completed(self, report: EditReport) -> EditReport:
        shares = self._free_shares()
        return replace(
            report,
            counts={**report.counts, "nothing_protected": int(min(shares) == 1)},
            numbers={"null_share": sum(shares) / len(shares)},
        )

    def _free_shares(self) -> list[float]:
        """Share of each layer's directions that a change may use."""
        return [basis.shape[1] / basis.shape[0] for basis in self._bases.values()]

    def _write(self, layer: int, keys: Tensor, residuals: Tensor) -> None:
        """Add the update of `keys` (F, N) and `residuals` (D, N) to the weight of `layer`."""
        products = keys @ keys.T
        if layer in self._earlier:
            products += self._earlier[layer]
        basis = self._bases[layer].to(keys)
        update = null_space_update(keys, residuals, basis, products, self._config.l2_weight)
        self._weights.add(str(layer), update)
        if self._config.accumulate_keys:
            self._earlier[layer] = products


def free_bases(spectra: Mapping[int, Spectrum], threshold: float) -> dict[int, Tensor]:
    """Of each layer the eigenvectors whose eigenvalue is below `threshold`, (F, r) float32.

    Raises:
        ConfigError: If a layer has none.
    """
    bases = {}
    for layer, spectrum in spectra.items():
        is_free = spectrum.values < threshold
        if not bool(is_free.any()):
            raise ConfigError(
                f"method.null_threshold is {threshold:g}; layer {layer} has no direction below it: "
                f"its second moments lie in [{float(spectrum.values[0]):.3g}, "
                f"{float(spectrum.values[-1]):.3g}]"
            )
        bases[layer] = spectrum.vectors[:, is_free]
    return bases


def null_space_update(
    keys: Tensor, residuals: Tensor, basis: Tensor, products: Tensor, l2_weight: float
) -> Tensor:
    """Change of the weight (D, F): R (U Y)^T with (U^T products U + l2_weight I) Y = U^T K.

    Args:
        keys: K, (F, N) float64.
        residuals: R, (D, N) float64: what the outputs at those keys should gain.
        basis: U, (F, r) float64, orthonormal columns.
        products: K K^T + C_prev, (F, F) float64.
        l2_weight: Above 0.

    Raises:
        EditDiverged: If it cannot be solved.
    """
    solution = solved(basis.T @ products @ basis, basis.T @ keys, l2_weight)
    return (residuals @ solution.T) @ basis.T


VERSION = 3  # edits that are rolled back are found side by side
CONFIG = Config
METHOD = AlphaEdit
