"""MEMIT: write many facts at once into the FFN output projections of several layers.

Source: Meng et al., "Mass-Editing Memory in a Transformer" (arXiv:2210.07229). LEMoE
(arXiv:2406.20030v1), Appendix B.2, edits layers 4 to 8 of LLaMA2-7B.

1. `backbones/subject_vectors.py` finds for each edit a vector delta that, added to the state h that
   leaves the last edited layer at the subject's last token, makes the backbone say the target:
   z = h + delta.
2. Layers in ascending order: K (F, N) are the inputs of the projection at those tokens and R (D, N)
   is z minus the present state, divided by the number of layers still to come, this one included;
   W += R X^T with (cov_weight * C + K K^T) X = K, solved in float64. Later layers see the change.

Deviations, and choices where the paper is silent:
- The weights change in `finish`: a batch that is scored before shows the floor.
- Edits that are each rolled back (`single`) are found side by side, and spread with one
  factorisation of cov_weight * C for all of them, each for weights of its own.
- `v_num_steps` counts updates of the vectors; published code takes one fewer.
- C is made from 10 tokens a key dimension, which suffices (arXiv:2506.04226); published are 100,000
  documents of Wikipedia. The text is `covariance_text`, else the checkpoint's own
  (`training_text.txt`), else one that the pristine backbone samples: the prompts of a data set are
  no substitute, as all that they leave untouched the update is free to change.
- With few tokens C is singular; 1e-8 of the mean diagonal of cov_weight * C is added to it.
- Contexts are sampled from the pristine backbone once, with a fixed seed, and shared by all trials.
- `kl_position: last` is the papers' text: ROME (Meng et al., arXiv:2202.05262) compares
  what follows "{subject} is a", and MEMIT takes up that vector step. `subject` is what both
  published codes do: they compare at the subject's last token, where the vector itself is added.
- An absent subject is replaced by the last prompt token, counted as `subject_absent`; without any
  subject there is no KL term.
- `accumulate_keys` adds K K^T of earlier batches to the system; published: they are forgotten.
- Of a backbone in float16 or bfloat16 the weights are summed up in float32 and written rounded.
- The last decoder layer is refused: nothing behind it carries the subject's state to the answer.
- So is a family with a norm behind its FFN: R would have to be solved for through that norm.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import Moments, check_text
from trainables.assemblies.spread_editor import SpreadEditor, SpreadSettings
from trainables.assemblies.spread_vectors import check_listed, least_squares_update
from trainables.assemblies.vectors_apart import least_squares_directions
from trainables.backbones.families import check_ffn_is_added
from trainables.backbones.hidden_states.subject_rows import KlPosition
from trainables.field_kinds import Count, CountOrZero, Positive, PositiveOrZero, checked
from trainables.interfaces import Backbone, EditReport, Family, Generators


@checked
class Config:
    """Settings of MEMIT.

    Attributes:
        layers: Decoder layers whose FFN output projections are written, from 0; not the last one.
        v_lr: Adam's learning rate on the vectors.
        v_num_steps: Most updates of the vectors of one batch.
        v_weight_decay: Weight of |delta| / |h|^2.
        stop_loss: An edit below it is not moved any more; nats.
        clamp: Largest |delta| as a multiple of |h|.
        kl_weight: Weight of the term that keeps "{subject} is a"; 0: without it, and cheaper.
        kl_position: Token of that prompt whose prediction is kept; see the module's docstring.
        cov_weight: Lambda, the weight of the second moment against one edit's key.
        contexts: Sampled prefixes beside the bare prompt.
        context_length: Tokens of such a prefix.
        covariance_tokens_per_dim: Tokens that C is made from, per key dimension.
        covariance_text: Text file for C, one passage a line; None: the checkpoint's own text, or
            one that the backbone samples.
        accumulate_keys: Whether keys of earlier batches are protected too.
    """

    layers: tuple[int, ...]
    v_lr: Positive
    v_num_steps: Count
    v_weight_decay: PositiveOrZero
    stop_loss: PositiveOrZero
    clamp: Positive
    kl_weight: PositiveOrZero
    kl_position: KlPosition
    cov_weight: Positive
    contexts: CountOrZero
    context_length: Count
    covariance_tokens_per_dim: Count
    covariance_text: str | None
    accumulate_keys: bool

    def __post_init__(self) -> None:
        check_listed(self.layers)
        check_text(self.covariance_text)


def check_family(family: Family) -> None:
    """Refuse a family whose FFN output passes a norm before it reaches the residual stream.

    Raises:
        BackboneError: If it does.
    """
    check_ffn_is_added(family, "memit")


class LeastSquares:
    """R X^T with (cov_weight * C + sum of K K^T) X = K."""

    def __init__(self, cov_weight: float) -> None:
        """`cov_weight` is lambda; C comes with `prepare`."""
        self._cov_weight = cov_weight
        self._moments: Mapping[int, Tensor] = {}  # C, (F, F) float32

    def prepare(self, moments: Moments, artefacts: Artefacts) -> None:
        """Take C of each layer."""
        self._moments = moments.of_layer

    def update(self, layer: int, keys: Tensor, residuals: Tensor, earlier: Tensor | None) -> Tensor:
        """See `ClosedForm.update`."""
        old = self._old(layer, keys)
        return least_squares_update(keys, residuals, old if earlier is None else old + earlier)

    def directions(self, layer: int, keys: Tensor) -> Tensor:
        """See `ClosedForm.directions`."""
        return least_squares_directions(keys, self._old(layer, keys))

    def completed(self, report: EditReport) -> EditReport:
        """Nothing is added."""
        return report

    def _old(self, layer: int, keys: Tensor) -> Tensor:
        return self._cov_weight * self._moments[layer].to(keys)


def memit(
    config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
) -> SpreadEditor:
    """An editor that weighs the change against what ordinary text needs."""
    settings = SpreadSettings.from_config(config)
    return SpreadEditor("memit", settings, backbone, artefacts, LeastSquares(config.cov_weight))


VERSION = 6  # remembered keys are no bytes of an answer
CONFIG = Config
METHOD = memit
