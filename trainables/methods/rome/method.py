"""ROME: write one fact after another into one FFN output projection, each by a change of rank 1.

Source: Meng et al., "Locating and Editing Factual Associations in GPT" (arXiv:2202.05262, Figure
4). LEMoE (arXiv:2406.20030v1), Appendix B.2, edits layer 5 of LLaMA and Mistral.

1. The key k is what enters the projection W at the subject's last token, the mean over the bare
   prompt and sampled contexts; v is what leaves it there for the bare prompt.
2. `subject_vectors.py` finds delta so that v* = v + delta makes the backbone say the target.
3. W += (v* - W k') u^T / (k' . u) with u = C^-1 k, where C = E[k k^T] of ordinary text: then
   W k' = v*, and of all such changes this one moves the outputs of that text least.

`update_key` is the k' of step 3. `bare`, the key of the bare prompt, is what the published codes of
ROME do; the paper has k in both places, which is `mean`: R-ROME (Gupta et al., "Rebuilding ROME",
arXiv:2403.07175) found that two different keys are what makes some edits break a model. Without
contexts both are the same.

Deviations, and choices where the paper is silent:
- The edits of a batch are made one after another, each on the weight that the last one left, so
  that the batch size decides nothing but when edits are scored.
- Edits that are each rolled back (`single`) are found side by side, each for a weight of its own:
  their rows pass the frozen layers together.
- `v_num_steps` counts updates of a vector; published code takes one fewer.
- v* is that of the bare prompt with `mean`, too, as in R-ROME's public code.
- Of u the length cancels; published code sets it to 1.
- `covariance: identity` puts u = k, as EasyEdit does on LLaMA2-7B and Mistral. C else is made of
  few tokens, with 1e-8 of its mean diagonal added, of the same text as MEMIT's; see there.
- Of 20 contexts ten are of 5 tokens and ten of 10. They are sampled from the pristine backbone
  once, with a fixed seed, and shared by all trials.
- `kl_position`, an absent subject, float16 and bfloat16, the last layer and families with a norm
  behind the FFN: as `memit.py` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import check_text, stored_contexts, stored_moments
from trainables.backbones.families import check_ffn_is_added
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import ridged
from trainables.backbones.hidden_states.subject_rows import (
    KlPosition,
    edits_at_once,
    subject_rows,
)
from trainables.backbones.hidden_states.subject_vectors import (
    SubjectVectors,
    VectorSettings,
    keys_by_context,
)
from trainables.backbones.master_weight import MasterWeight
from trainables.backbones.surgery import KeptWeights, get_module
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
from trainables.methods.rome.finding import Finding
from trainables.optimise import Optimisation, OptimiserSettings, begun, stored_batch
from trainables.prompts import batch_from, batch_state


@checked
class Config:
    """Settings of ROME.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection is written, from 0; not the last one.
        v_lr: Adam's learning rate on a vector.
        v_num_steps: Most updates of the vector of one edit.
        v_weight_decay: Weight of |delta| / |v|^2.
        stop_loss: Below it a vector is found; nats.
        clamp: Largest |delta| as a multiple of |v|.
        kl_weight: Weight of the term that keeps "{subject} is a"; 0: without it, and cheaper.
        kl_position: Token of that prompt whose prediction is kept.
        update_key: Key whose output is set to v*: `bare`, of the prompt alone, or `mean`, R-ROME.
        covariance: What C is: of ordinary `text`, or the `identity`.
        covariance_tokens_per_dim: Tokens that C is made from, per key dimension.
        covariance_text: Text file for C, one passage a line; None: the checkpoint's own text, or
            one that the backbone samples.
        contexts: Sampled prefixes beside the bare prompt.
        context_lengths: Tokens of such a prefix; as many are sampled of each length.
    """

    edit_layer: CountOrZero
    v_lr: Positive
    v_num_steps: Count
    v_weight_decay: PositiveOrZero
    stop_loss: PositiveOrZero
    clamp: Positive
    kl_weight: PositiveOrZero
    kl_position: KlPosition
    update_key: Literal["bare", "mean"]
    covariance: Literal["text", "identity"]
    covariance_tokens_per_dim: Count
    covariance_text: str | None
    contexts: CountOrZero
    context_lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = list(self.context_lengths)
        if min(lengths, default=0) < 1 or (lengths and self.contexts % len(lengths)):
            raise ConfigError(
                f"method.context_lengths is {lengths} with method.contexts={self.contexts}; name "
                "at least one length, each of 1 or more tokens, with as many contexts of each"
            )
        check_text(self.covariance_text)


def check_family(family: Family) -> None:
    """Refuse a family whose FFN output passes a norm before it reaches the residual stream.

    Raises:
        BackboneError: If it does.
    """
    check_ffn_is_added(family, "rome")


@dataclass
class _Run:
    """A batch under way.

    Attributes:
        batch: Its edits.
        total_loss: Sum of the last losses of the edits that are written, a scalar.
        num_written: How many those are.
        num_steps: Steps that they took.
        num_absent: Those whose subject is not in their prompt.
        finding: The next edit; None when all are written.
    """

    batch: EditBatch
    total_loss: Tensor
    num_written: int = 0
    num_steps: int = 0
    num_absent: int = 0
    finding: Finding | None = None


class Rome:
    """Changes of rank 1 of one FFN output projection."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        check_family(backbone.family)
        if config.edit_layer > backbone.num_layers - 2:
            raise ConfigError(
                f"method.edit_layer is {config.edit_layer}; allowed: 0 to "
                f"{backbone.num_layers - 2}, the last of {backbone.num_layers} layers excluded"
            )
        self.first_layer = config.edit_layer
        self.num_steps = config.v_num_steps  # of one edit until a batch is there
        self._config = config
        self._backbone = backbone
        self._artefacts = artefacts
        down = backbone.down_path(config.edit_layer)
        self._down = get_module(backbone.model, down)
        self._kept = KeptWeights(backbone.model, [f"{down}.weight"])
        self._master = MasterWeight(self._kept.parameter(f"{down}.weight"))
        self._split = Split(backbone, config.edit_layer, artefacts.prefix_cache)
        self._factors: tuple[Tensor, Tensor] | None = None  # of C, float64: (F, F), pivots (F,)
        self._is_sampled = False
        self._contexts: tuple[str, ...] = ()
        self._run: _Run | None = None
        self._apart: Finding | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Second moments and contexts of the pristine backbone, through artefacts.

        Raises:
            DataError: If `covariance_text` holds no text.
        """
        del training  # C is of ordinary text
        config, split, store = self._config, self._split, self._artefacts
        layer, lengths = config.edit_layer, config.context_lengths
        if config.covariance == "text":
            tokens, path = config.covariance_tokens_per_dim, config.covariance_text
            found = stored_moments(split, store, [layer], tokens, path)
            moment = found.of_layer[layer].to(self._backbone.device).double()
            self._factors = torch.linalg.lu_factor(ridged(moment))
            self._is_sampled = found.is_sampled
        each = config.contexts // len(lengths)
        self._contexts = tuple(
            text for length in lengths for text in stored_contexts(split, store, each, length)
        )

    def begin(self, batch: EditBatch) -> None:
        """Set up the vector of the first edit; no weight changes before it is found.

        Raises:
            DataError: If there are no second moments yet.
        """
        self._check_prepared()
        self._begin(_Run(batch, torch.zeros((), device=self._backbone.device)))

    def begin_each(self, batch: EditBatch) -> None:
        """Set up the vectors of all edits, each for a weight of its own.

        Raises:
            DataError: If there are no second moments yet.
        """
        self._check_prepared()
        self.num_steps = self._config.v_num_steps
        self._apart = self._find(batch)

    @property
    def most_side_by_side(self) -> int:
        """Edits whose rows run all at once."""
        return edits_at_once(
            self._backbone, len(self._contexts), with_kl=self._config.kl_weight > 0
        )

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` updates of vectors, and write those that are found.

        Returns:
            True when all edits are written; side by side: when they may be taken.

        Raises:
            EditDiverged: If a loss or a change of the weight is not finite.
        """
        if self._apart is not None:
            return self._apart.optimisation.advance(max_steps)
        run = begun(self._run)
        while run.finding is not None and max_steps > 0:
            optimisation = run.finding.optimisation
            before = optimisation.steps_taken
            is_found = optimisation.advance(max_steps)
            max_steps -= optimisation.steps_taken - before
            if is_found:
                self._write(run, run.finding)
                self._find_next(run)
        return run.finding is None

    def finish(self) -> EditReport:
        """The report; all is written already."""
        run = begun(self._run)
        self._run = None
        return EditReport(
            num_edits=len(run.batch),
            num_steps=run.num_steps,
            final_loss=float(run.total_loss) / len(run.batch),
            counts={
                "subject_absent": run.num_absent,
                "covariance_from_samples": int(self._is_sampled),
            },
        )

    def finish_each(self) -> list[EditReport]:
        """The reports; an edit is written when it is taken."""
        found = begun(self._apart)
        return [found.report(n, is_sampled=self._is_sampled) for n in range(len(found.batch))]

    def take(self, number: int) -> None:
        """Write one edit alone, if its vector is found.

        Raises:
            EditDiverged: If its change of the weight is not finite.
        """
        found = begun(self._apart)
        self._kept.restore()
        self._master.reread()
        if found.is_found(number):
            self._add(found.change(number, self._factors))

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the written weight."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """The weight; in a batch how far it is, and the vectors under way."""
        state = State()
        if self._apart is not None:  # the weight is that of the edit that was taken
            state.nest("apart", self._apart.state())
            return state
        state.tensors["weight"] = self._master.value.detach()
        run = self._run
        if run is not None:
            state.nest("batch", batch_state(run.batch))
            state.tensors["total_loss"] = run.total_loss
            state.values["run"] = {name: getattr(run, name) for name in _COUNTERS}
            if run.finding is not None:
                state.nest("finding", run.finding.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`; `prepare` comes first."""
        self.remove()
        device = self._backbone.device
        if "apart" in state.values:
            inner = state.inner("apart")
            self.begin_each(batch_from(inner.inner("batch"), device))
            begun(self._apart).resume(inner)
            return
        self._master.set(state.tensors["weight"])
        batch = stored_batch(state, device)
        if batch is None:
            return
        counters: Any = state.values["run"]
        run = _Run(batch, state.tensors["total_loss"].to(device).clone(), **counters)
        self._begin(run)
        if run.finding is not None:
            run.finding.resume(state.inner("finding"))

    def remove(self) -> None:
        """Put the pristine weight back, bit for bit."""
        self._kept.restore()
        self._master.reread()
        self._run = self._apart = None

    def inference_bytes(self) -> int:
        """The weight as the backbone holds it."""
        return self._master.num_bytes

    def _check_prepared(self) -> None:
        if self._config.covariance == "text" and self._factors is None:
            raise DataError("rome has no second moments: prepare() comes before the first edit")

    def _begin(self, run: _Run) -> None:
        self._run = run
        self.num_steps = self._config.v_num_steps * len(run.batch)
        self._find_next(run)

    def _find_next(self, run: _Run) -> None:
        """Set up the vector of the first edit that is not written, on the weight as it now is."""
        is_last = run.num_written == len(run.batch)
        run.finding = None if is_last else self._find(run.batch.single(run.num_written))

    @torch.no_grad()
    def _find(self, batch: EditBatch) -> Finding:
        """Set up the vectors of some edits, on the weight as it now is."""
        config, backbone = self._config, self._backbone
        rows = subject_rows(
            backbone,
            batch,
            self._contexts,
            with_kl=config.kl_weight > 0,
            kl_position=config.kl_position,
        )
        layer = config.edit_layer
        keys = keys_by_context(backbone, rows, layer, layer)[0]
        outputs = self._down(keys.to(backbone.dtype)).float()
        settings = VectorSettings(
            config.v_weight_decay, config.stop_loss, config.clamp, config.kl_weight
        )
        vectors = SubjectVectors(backbone, layer, rows, settings, base=outputs[0])
        optimisation = Optimisation(
            {"delta": vectors.delta},
            vectors.loss,
            OptimiserSettings("adam", config.v_lr, config.v_num_steps, config.stop_loss),
            agreed=backbone.micro_batch.agreed,
            after_step=vectors.project,
            num_losses=rows.num_edits,
        )
        mean_keys, own, gaps = keys.mean(0), keys[0], torch.zeros_like(outputs[0])
        if config.update_key == "mean":
            own, gaps = mean_keys, outputs[0] - outputs.mean(0)
        return Finding(batch, vectors, optimisation, mean_keys, own, gaps)

    def _write(self, run: _Run, found: Finding) -> None:
        """Change the weight so that the key of the edit gives its v*."""
        self._add(found.change(0, self._factors))
        run.total_loss = run.total_loss + found.vectors.losses[0]
        run.num_written += 1
        run.num_steps += found.optimisation.steps_taken
        run.num_absent += found.vectors.rows.num_absent

    @torch.no_grad()
    def _add(self, change: Tensor) -> None:
        # GPT-2 stores (in, out), Llama (out, in); the family says which.
        oriented = change.T if self._backbone.family.is_transposed else change
        self._master.set(self._master.value.double() + oriented)


_COUNTERS = ("num_written", "num_steps", "num_absent")


VERSION = 3  # edits that are rolled back are found side by side
CONFIG = Config
METHOD = Rome
