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

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import check_text, stored_contexts, stored_moments
from trainables.assemblies.spread_vectors import (
    Search,
    VectorRun,
    below_last,
    check_listed,
    least_squares_update,
    spread,
)
from trainables.assemblies.vectors_apart import VectorsApart, least_squares_directions
from trainables.backbones.families import check_ffn_is_added
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.subject_rows import KlPosition, edits_at_once
from trainables.backbones.hidden_states.subject_vectors import VectorSettings
from trainables.backbones.written_weights import WrittenWeights
from trainables.errors import DataError
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


class Memit:
    """Least-squares updates of FFN output projections."""

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
        self._moments: Mapping[int, Tensor] = {}  # C, (F, F) float32
        self._earlier: dict[int, Tensor] = {}  # sum of K K^T, (F, F) float64
        self._contexts: tuple[str, ...] = ()
        self._is_sampled = False
        self._run: VectorRun | None = None
        self._apart: VectorsApart | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Second moments and contexts of the pristine backbone, through artefacts.

        Raises:
            DataError: If `covariance_text` holds no text.
        """
        del training  # C is of ordinary text
        config, split, store = self._config, self._split, self._artefacts
        found = stored_moments(
            split, store, self._layers, config.covariance_tokens_per_dim, config.covariance_text
        )
        self._moments, self._is_sampled = found.of_layer, found.is_sampled
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
        return run.report(self._is_sampled)

    def finish_each(self) -> list[EditReport]:
        """Find what each edit alone writes; it is written when it is taken."""
        apart = begun(self._apart)
        apart.spread(self._backbone, self._layers, self._directions)
        return apart.run.reports(self._is_sampled)

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
        stored = {layer: state.tensors.get(f"earlier/{layer}") for layer in self._layers}
        self._earlier = {
            layer: products.to(device).clone()
            for layer, products in stored.items()
            if products is not None
        }
        if batch is not None:
            self.begin(batch)
            begun(self._run).resume(state)

    def remove(self) -> None:
        """Put the pristine weights back, bit for bit."""
        self._weights.restore()
        self._earlier, self._run, self._apart = {}, None, None

    def inference_bytes(self) -> int:
        """The weights as the backbone holds them, and the remembered keys."""
        return self._weights.num_bytes + sum(products.nbytes for products in self._earlier.values())

    def _vectors(self, batch: EditBatch) -> VectorRun:
        config = self._config
        if not self._moments:
            raise DataError("memit has no second moments: prepare() comes before the first edit")
        search = Search(
            config.v_lr,
            config.v_num_steps,
            VectorSettings(config.v_weight_decay, config.stop_loss, config.clamp, config.kl_weight),
            config.kl_position,
        )
        return VectorRun(self._backbone, batch, self._contexts, self._layers[-1], search)

    def _directions(self, layer: int, keys: Tensor) -> Tensor:
        old = self._config.cov_weight * self._moments[layer].to(keys)
        return least_squares_directions(keys, old)

    def _write(self, layer: int, keys: Tensor, residuals: Tensor) -> None:
        """Add the update of `keys` (F, N) and `residuals` (D, N) to the weight of `layer`."""
        old = self._config.cov_weight * self._moments[layer].to(keys)
        if layer in self._earlier:
            old = old + self._earlier[layer]
        self._weights.add(str(layer), least_squares_update(keys, residuals, old))
        if self._config.accumulate_keys:
            earlier = self._earlier.get(layer, torch.zeros_like(old))
            self._earlier[layer] = earlier + keys @ keys.T


VERSION = 5  # edits that are rolled back are found side by side
CONFIG = Config
METHOD = Memit
