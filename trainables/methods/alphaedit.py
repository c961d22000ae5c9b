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

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import Moments, Spectrum, check_text, stored_spectra
from trainables.assemblies.spread_editor import SpreadEditor, SpreadSettings
from trainables.assemblies.spread_vectors import check_listed
from trainables.assemblies.vectors_apart import null_space_directions
from trainables.backbones.families import check_ffn_is_added
from trainables.backbones.hidden_states.covariance import solved
from trainables.backbones.hidden_states.subject_rows import KlPosition
from trainables.errors import ConfigError
from trainables.field_kinds import Count, CountOrZero, Positive, PositiveOrZero, checked
from trainables.interfaces import Backbone, EditReport, Family, Generators


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


class NullSpace:
    """R X^T with (P (sum of K K^T) + l2_weight * I) X = P K."""

    def __init__(self, null_threshold: float, l2_weight: float) -> None:
        """The free directions come with `prepare`."""
        self._threshold, self._l2_weight = null_threshold, l2_weight
        self._bases: dict[int, Tensor] = {}  # U, (F, r) float32, in host memory

    def prepare(self, moments: Moments, artefacts: Artefacts) -> None:
        """Free directions of each layer, through artefacts.

        Raises:
            ConfigError: If no direction of a layer is below `null_threshold`.
        """
        self._bases = free_bases(stored_spectra(artefacts, moments), self._threshold)

    def update(self, layer: int, keys: Tensor, residuals: Tensor, earlier: Tensor | None) -> Tensor:
        """See `ClosedForm.update`."""
        products = keys @ keys.T
        if earlier is not None:
            products += earlier
        basis = self._bases[layer].to(keys)
        return null_space_update(keys, residuals, basis, products, self._l2_weight)

    def directions(self, layer: int, keys: Tensor) -> Tensor:
        """See `ClosedForm.directions`."""
        return null_space_directions(keys, self._bases[layer].to(keys), self._l2_weight)

    def completed(self, report: EditReport) -> EditReport:
        """With the share of the directions that a change may use, averaged over the layers."""
        shares = [basis.shape[1] / basis.shape[0] for basis in self._bases.values()]
        return replace(
            report,
            counts={**report.counts, "nothing_protected": int(min(shares) == 1)},
            numbers={"null_share": sum(shares) / len(shares)},
        )


def alphaedit(
    config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
) -> SpreadEditor:
    """An editor whose changes stay out of the directions that ordinary text uses."""
    closed_form = NullSpace(config.null_threshold, config.l2_weight)
    settings = SpreadSettings.from_config(config)
    return SpreadEditor("alphaedit", settings, backbone, artefacts, closed_form)


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


VERSION = 4  # remembered keys are no bytes of an answer
CONFIG = Config
METHOD = alphaedit
