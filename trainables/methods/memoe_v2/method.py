"""MEMoE, second version: experts for knowledge of different frequency, one expert a prompt.

Source: "MEMoE: Enhancing Model Editing with Mixture of Experts Adaptors" (the version with a
dual-attention router): Eq. 9 (GECE: assemblies/gece.py), 10 (adaptor), 11 and 12 (division:
moe/frequency.py), 13-15 (router: dual_attention.py), 16-20 (loss: terms.py),
Table 2 (what is left out) and Appendix C.3 (constants). Those modules say what their equations
leave open; this one puts them together.

Choices where the paper is silent or contradicts itself:
- The experts that a batch's edits are divided among train on their own edits (`router_forcing:
  label`): the router is told (Eq. 19), and its chance of the label scales the expert. `argmax` lets
  the router choose in training too; while the label loss moves it, edits learned by one expert are
  sent to another. At inference the router always chooses.
- `division: none` has no labels, so training chooses by argmax and Eq. 19 has nothing to compare
  with; the report counts `edits_without_label`. `confidence` divides by 1 - mean probability
  instead of GECE, `random` at random: the controls. Eq. 16-18 weigh by GECE in all of them.
- Eq. 10 softmaxes r, which Eq. 15 has softmaxed: `gate: single` takes r itself, `double` both.
- e(x) is the last hidden state, after the last norm, of the unedited model at the end of the
  prompt; it is read with the backbone's own FFN in place, and once per prompt.
- Eq. 11, 12 and the normalised g of Eq. 16-18 are of one batch of edits. In a stream the same
  experts and router go on training, so old prompts may be routed anew: the paper's sequential
  setting, and its forgetting. A batch restarts AdamW and the course of its rate.
- Eq. 18 compares the model with itself before the batch's run of edits, that is, unedited, on the
  prompt's positions that predict a prompt token, on those that predict the target, or on unrelated
  prompts of another split (one for each edit, which go where the router sends them).
- With fewer edits than experts some experts get none: `empty_experts` is reported.
- Experts are FFN-shaped: a copy of the up projection, the backbone's gate, a down projection of
  zeros. Not published: p (20 %), d_p (a quarter of the width), the steps, the weight decay.
- `top_k` above 1 (Figure 4) adds the next best experts to the labelled one. Soft merging (Appendix
  D.3) mixes the parameters of all experts by their gates, as in version 1; `soft_outputs` mixes
  what they answer, which for FFN-shaped experts is something else. No expert is forced then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.bypass import Bypass
from trainables.assemblies.gece import (
    Answer,
    Calibration,
    Corpus,
    GeceSettings,
    MeanOver,
    WordSource,
    calibration,
    text_word_counts,
)
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.errors import ConfigError
from trainables.field_kinds import (
    Count,
    CountOrZero,
    Positive,
    PositiveOrZero,
    Share,
    checked,
)
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
from trainables.methods.memoe_v2.division import (
    DividedRun,
    Division,
    DivisionBy,
    DivisionSettings,
    divided,
)
from trainables.methods.memoe_v2.dual_attention import Gate, Reading
from trainables.methods.memoe_v2.loss import ConstrainedLoss, Positions, constrained_rows
from trainables.methods.memoe_v2.routing import RoutingSettings, UneditedRouting
from trainables.methods.memoe_v2.terms import ConstraintSettings, Sign
from trainables.moe.experts import FfnBank, Merging
from trainables.moe.frequency import Denominator, Scale, Synonyms
from trainables.moe.nltk_data import NltkData
from trainables.optimise import (
    BatchRun,
    Optimisation,
    OptimiserSettings,
    Schedule,
    begun,
    stored_batch,
)
from trainables.passing import PassingLoss

Forcing = Literal["label", "argmax"]

_BETAS = (0.9, 0.95)  # of AdamW, Appendix C.3


@checked
class Config:
    """Settings of MEMoE v2; the paper's symbols and equations in brackets.

    Attributes:
        edit_layer: Decoder layer whose FFN gets the bypass, from 0.
        num_experts: Experts [n].
        top_k: Experts that one prompt uses [Top_k of Eq. 10]; not read by soft merging.
        merging: How experts are combined; see the module's docstring.
        bypass_weight: Scales what the experts add [lambda of Eq. 10].
        division: What edits are divided by; none: not at all.
        head_share: Share of the edits that the first expert learns [p of Eq. 11].
        cluster_balance_weight: Weight of equal sizes [lambda of Eq. 12].
        cluster_scale: Scale on which scores are clustered and weigh the loss.
        gece_reference: What METEOR compares the answer with.
        gece_target: The answer whose gradient Eq. 9 takes.
        gece_denominator: What becomes of Eq. 9's inner product.
        gece_word_source: Whose words' frequency is alpha of Eq. 9.
        gece_mean_over: The edits whose mean gradient is E of Eq. 9.
        meteor_penalty: Weight of METEOR's penalty for fragments; NLTK's own is 0.5.
        meteor_synonyms: Whether METEOR uses WordNet.
        router: Reading of Eq. 14.
        router_chunks: Pieces of the hidden state, for `router: chunks`.
        projection_size: Width of Eq. 13 [d_p]; None: a quarter of the model's.
        gate: What scales an expert.
        router_forcing: Who chooses the expert in training.
        frequency_weighting: Weigh edits by Eq. 17; false: plain cross entropy.
        balance_term: Use Eq. 18.
        balance_sign: Its sign: a constraint on the change, or as printed.
        balance_positions: Where it is taken.
        router_term: Use Eq. 19.
        frequency_threshold: [tau of Eq. 17].
        frequency_slope: [gamma_1 of Eq. 17].
        balance_slope: [gamma_2 of Eq. 18].
        focal_power: [gamma_3 of Eq. 19].
        balance_weight: Factor of Eq. 18 in Eq. 20.
        router_weight: Factor of Eq. 19 in Eq. 20.
        edit_lr: AdamW's highest learning rate.
        schedule: Course of the rate.
        warmup_share: Share of the steps over which the rate rises, in [0, 1).
        num_steps: Steps per batch of edits.
        weight_decay: AdamW's.
    """

    edit_layer: CountOrZero
    num_experts: Count
    top_k: int
    merging: Merging
    bypass_weight: PositiveOrZero
    division: DivisionBy
    head_share: Share
    cluster_balance_weight: PositiveOrZero
    cluster_scale: Scale
    gece_reference: Answer
    gece_target: Answer
    gece_denominator: Denominator
    gece_word_source: WordSource
    gece_mean_over: MeanOver
    meteor_penalty: Share
    meteor_synonyms: Synonyms
    router: Reading
    router_chunks: Count
    projection_size: Count | None
    gate: Gate
    router_forcing: Forcing
    frequency_weighting: bool
    balance_term: bool
    balance_sign: Sign
    balance_positions: Positions
    router_term: bool
    frequency_threshold: float
    frequency_slope: PositiveOrZero
    balance_slope: PositiveOrZero
    focal_power: PositiveOrZero
    balance_weight: PositiveOrZero
    router_weight: PositiveOrZero
    edit_lr: Positive
    schedule: Schedule
    warmup_share: Annotated[float, Interval(ge=0, lt=1)]
    num_steps: Count
    weight_decay: PositiveOrZero

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(
                f"method.top_k is {self.top_k}; it must lie in "
                f"[1, method.num_experts={self.num_experts}]"
            )
        if self.gece_denominator == "printed" and self.cluster_scale == "log":
            raise ConfigError(
                "method.cluster_scale is 'log'; with method.gece_denominator=printed GECE may be "
                "negative, allowed: rank, raw"
            )

    @property
    def num_selected(self) -> int:
        """Experts that a prompt uses: `top_k`, or all where they are merged softly."""
        return self.top_k if self.merging == "top_k" else self.num_experts

    @property
    def reads_gece(self) -> bool:
        """True where edits are divided or weighed by what GECE is made of."""
        return (
            self.division in ("gece", "confidence") or self.frequency_weighting or self.balance_term
        )

    @property
    def nltk_data(self) -> tuple[NltkData, ...]:
        """The data of NLTK that these settings make the method read."""
        return ("wordnet",) if self.reads_gece and self.meteor_synonyms == "wordnet" else ()

    def part(self, settings: type[Any]) -> dict[str, Any]:
        """The fields that the dataclass `settings` has too, by name."""
        return {field.name: vars(self)[field.name] for field in fields(settings)}


class MemoeV2:
    """Trains a fixed set of experts and their router; the backbone stays frozen."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        layer, cache = config.edit_layer, artefacts.prefix_cache
        self._bypass = Bypass(
            backbone,
            layer,
            partial(FfnBank, merges_parameters=config.merging == "soft"),
            cache,
            num_experts=config.num_experts,
            bypass_weight=config.bypass_weight,
        )
        chosen = config.part(RoutingSettings) | {"top_k": config.num_selected}
        routing = RoutingSettings(**chosen)
        self._routing = UneditedRouting(routing, backbone, self._bypass, cache)
        self.first_layer = layer
        self.num_steps = config.num_steps
        self._config = config
        self._backbone = backbone
        self._artefacts = artefacts
        self._generators = generators
        self._split = Split(backbone, layer, cache)
        self._down = Site(backbone, layer, backbone.down_path(layer), cache)
        self._corpus = Corpus()
        self._forget()

    def _forget(self) -> None:
        self._owners: list[int] = []
        self.run: DividedRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Count the words that alpha of Eq. 9 is taken from, and keep the edits of its mean E."""
        has_words = self._config.reads_gece and self._config.gece_word_source != "none"
        edits = [record.edit for record in training]
        words = text_word_counts(self._backbone, edits) if has_words else {}
        self._corpus = Corpus(words, edits)

    def begin(self, batch: EditBatch) -> None:
        """Divide the batch, and set up AdamW on all experts and the router."""
        if not self._bypass.is_attached:
            self._bypass.attach()
            self._routing.initialise(self._generators.init)
        config = self._config
        division = divided(
            len(batch),
            DivisionSettings(**config.part(DivisionSettings)),
            (lambda: self._calibration(batch)) if self._config.reads_gece else None,
            self._generators.noise,
            self._backbone.device,
        )
        self._start(batch, division)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` AdamW steps; True when the batch is done."""
        return begun(self.run).work.advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze experts and router until the next batch."""
        run = begun(self.run)
        division = run.division
        self._bypass.freeze()
        self._routing.freeze()
        routes: list[int] = self.routes(run.work.batch.tokens).tolist()
        is_forced = self._config.router_forcing == "label" and self._config.division != "none"
        self._owners += division.labels.tolist() if is_forced else routes
        self.run = None
        return replace(
            run.work.report(),
            counts=division.counts,
            numbers=division.numbers | division.by_expert(routes),
        )

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V); the gates of a prompt are taken once and kept in `state`."""
        gates = state.route if state is not None else None
        if gates is None and self._routing.has_weights:
            gates = self._routing.gates(self._routing.scores(self._routing.read(prompts)))
        if state is not None:
            state = replace(state, route=gates)
        return self._bypass.logits(prompts, state, gates)

    @torch.no_grad()
    def routes(self, prompts: PromptBatch) -> Tensor:
        """The likeliest expert of each prompt, (B,), the head's being 0; -1 before any edit."""
        if not self._routing.has_weights:
            return torch.full_like(prompts.prompt_lengths, -1)
        return self._routing.scores(self._routing.read(prompts)).argmax(1)

    def trained_routes(self) -> list[int]:
        """For each edit so far its label, or where the router sent it when the batch ended."""
        return list(self._owners)

    def state(self) -> State:
        """Experts and router; division and optimisation too when a batch is under way."""
        state = State(
            {
                "generator_init": self._generators.init.get_state(),
                "generator_noise": self._generators.noise.get_state(),
            },
            {"owners": list(self._owners)},
        )
        state.nest("experts", self._bypass.state())
        state.nest("router", self._routing.state())
        if self.run is not None:
            self.run.work.store(state)
            state.nest("division", self.run.division.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.remove()
        values: dict[str, Any] = dict(state.values)
        self._bypass.load(state.inner("experts"))
        self._routing.load(state.inner("router"))
        self._owners = list(values["owners"])
        device = self._backbone.device
        batch = stored_batch(state, device)
        if batch is not None:
            self._start(batch, Division.from_state(state.inner("division"), device)).resume(state)
        self._generators.init.set_state(state.tensors["generator_init"].cpu())
        self._generators.noise.set_state(state.tensors["generator_noise"].cpu())

    def remove(self) -> None:
        """Put the FFN back in its place and forget all edits."""
        self._bypass.remove()
        self._routing.forget()
        self._forget()

    def _calibration(self, batch: EditBatch) -> Calibration:
        settings = GeceSettings(**self._config.part(GeceSettings))
        with self._bypass.detached():
            return calibration(
                batch, settings, self._split, self._down, self._artefacts, self._corpus
            )

    def _start(self, batch: EditBatch, division: Division) -> BatchRun:
        """Set up the optimisation of all experts and the router."""
        config = self._config
        positions = config.balance_positions if config.balance_term else None
        held = constrained_rows(batch, positions, self._backbone.tokenizer)
        if positions == "locality":
            division.counts["edits_without_locality"] = held.num_without
        loss = ConstrainedLoss(
            held,
            ConstraintSettings(**config.part(ConstraintSettings)),
            division,
            self._bypass,
            self._routing,
            forces_labels=config.router_forcing == "label",
        )
        parameters = {**self._bypass.thaw(), **self._routing.thaw()}
        settings = OptimiserSettings(
            "adamw",
            config.edit_lr,
            config.num_steps,
            weight_decay=config.weight_decay,
            betas=_BETAS,
            schedule=config.schedule,
            warmup_share=config.warmup_share,
        )
        agreed = self._backbone.micro_batch.agreed
        optimisation = Optimisation(parameters, PassingLoss(loss.halves), settings, agreed=agreed)
        work = BatchRun(batch, optimisation)
        self.run = DividedRun(work, division)
        return work


CONFIG = Config
METHOD = MemoeV2
VERSION = 3  # random generators are no bytes of an answer
