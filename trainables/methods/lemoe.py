"""LEMoE: one frozen expert per batch of edits, beside the FFN of one layer, and a router over them.

Source: "LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing of Large Language
Models" (arXiv:2406.20030v1): Eq. 9 and 12 (adaptor), 10 and 11 (KV anchor routing), 13 (loss),
Appendices B.3, B.4 (routing), C.4 (LoRA); knowledge anchor: MEMoE v1, arXiv:2405.19086, Sec. 3.2.

Deviations:
- `anchor: frozen` (the default) routes by keys computed from data: the centred, normalised mean
  prompt embedding of an expert's edits; a query is made the same way. Training is forced onto the
  experts of the batch. `anchor: learned` is Eq. 10 and 11 as printed; there the shared projection
  moves on while old keys stay, and most inputs end at the newest expert.
- The gates of frozen anchors are a softmax over the top_k alone (`renormalises_gates`), so that a
  temperature has no effect at top_k 1; Eq. 11, and learned keys, take it over all experts.
- The centre is the mean embedding of the edits given to `prepare`, which are never edited here, so
  it knows no later edit. Without them it is the mean of the embedding table.
- Eq. 13 sums; the loss here is the mean over a target's tokens and over edits, so that `stop_loss`
  does not depend on the size of a batch. AdamW takes the same step at any scale of the loss.

Choices where the paper is silent:
- A batch adds `num_experts` experts: 1 in a stream, the "Exp." axis of Table 9 in a single batch.
  Several experts: k-means divides the batch into so many groups, each group's centre is one
  anchor, all train together, and the gates are a softmax of cosine / router_temperature over the
  `top_k` best. Fewer edits than experts get one expert each; `experts_not_added` is reported.
- e_j is the mean over prompt tokens of the input embeddings. `embedding: entity` takes named
  entities, or the subjects of the edits so far (`anchor_source`; moe/entities.py; fall-backs are
  counted), `token` each token's own, `sentence` a pretrained encoder's reading, as does the order.
- Width d_p of the projection: a quarter of the model's unless `projection_size` says otherwise.
- Conventional and knowledge-anchor routers (B.4) read the FFN's input, train all their rows in
  every batch, and have no balance loss: a batch has only its own expert to train. `anchor` and
  `embedding` concern KV anchor routing alone. A knowledge anchor is divided by the standard
  deviation of the embedding table: next to a normalised hidden state a gate would hardly see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.text_encoder import prompt_embedder
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.layers import check_edit_layer
from trainables.backbones.surgery import get_module, replace_module
from trainables.errors import ConfigError
from trainables.field_kinds import Count, Positive, PositiveOrZero, checked
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
from trainables.moe.adaptor import Adaptor
from trainables.moe.embeddings import group_means
from trainables.moe.entities import AnchorSource, AnchorWords
from trainables.moe.experts import Bank, FfnBank, FrozenFfn, LoraBank
from trainables.moe.nltk_data import NltkData
from trainables.moe.routers import FrozenAnchors, HiddenRouter, LearnedKeys, Router
from trainables.moe.routing import PromptRouting, Reads
from trainables.optimise import (
    BatchRun,
    Optimisation,
    OptimiserSettings,
    TargetRows,
    begun,
    row_loss,
    stored_batch,
    token_losses,
)
from trainables.passing import Passing, PassingLoss
from trainables.prompts import prompt_batch, row_index

_MAX_CENTRE_EDITS = 1000  # the mean hardly changes beyond; entities cost a millisecond per prompt

Expert = Literal["ffn", "lora"]
Routing = Literal["kv_anchor", "conventional", "knowledge_anchor"]
Anchor = Literal["frozen", "learned"]
Embedding = Literal["instance", "token", "entity", "sentence"]


@checked
class Config:
    """Settings of LEMoE.

    Attributes:
        edit_layer: Decoder layer whose FFN gets the bypass, from 0.
        expert: Shape of an expert.
        lora_rank: Rank R of a LoRA expert; not read for FFN experts.
        lora_alpha: A LoRA expert is scaled by lora_alpha / lora_rank; None: by 1.
        num_experts: Experts that one batch of edits adds ("Exp." in Table 9).
        top_k: Most experts that one input uses.
        routing: What decides; see the module's docstring.
        anchor: Keys of kv_anchor routing: computed from data, or learned as printed.
        embedding: What kv_anchor routing reads.
        anchor_source: Entities: NLTK's, or the subjects of all edits so far.
        anchor_words: Whether question words may be entities of NLTK's.
        projection_size: d_p of Eq. 10, for learned keys; None: a quarter of the model's width.
        router_temperature: Divides the cosines of frozen anchors.
        renormalises_gates: Whether the top_k gates of frozen anchors sum to 1; see above.
        bypass_weight: lambda of Eq. 9.
        edit_lr: AdamW's learning rate.
        num_steps: Most steps per batch of edits.
        stop_loss: A batch is done below this loss, nats per token; None: never early.
        weight_decay: AdamW's.
    """

    edit_layer: int
    expert: Expert
    lora_rank: Count
    lora_alpha: Positive | None
    num_experts: Count
    top_k: int
    routing: Routing
    anchor: Anchor
    embedding: Embedding
    anchor_source: AnchorSource
    anchor_words: AnchorWords
    projection_size: Count | None
    router_temperature: Positive
    renormalises_gates: bool
    bypass_weight: PositiveOrZero
    edit_lr: Positive
    num_steps: Count
    stop_loss: float | None
    weight_decay: PositiveOrZero

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(
                f"method.top_k is {self.top_k}; it must lie in "
                f"[1, method.num_experts={self.num_experts}]"
            )

    @property
    def uses_entities(self) -> bool:
        """True where the entities or subjects of a prompt are asked for."""
        by_key = self.routing == "kv_anchor"
        return self.embedding == "entity" if by_key else self.routing == "knowledge_anchor"

    @property
    def uses_sentences(self) -> bool:
        """True where the sentence encoder reads the prompts."""
        return self.routing == "kv_anchor" and self.embedding == "sentence"

    @property
    def nltk_data(self) -> tuple[NltkData, ...]:
        """The data of NLTK that these settings make the method read."""
        return ("chunker",) if self.uses_entities and self.anchor_source == "entity" else ()


@dataclass(frozen=True)
class _Bypass:
    """What stands beside the FFN from the first batch on."""

    adaptor: Adaptor
    routing: PromptRouting

    @property
    def newest(self) -> int:
        """Number of the first expert of the newest bank."""
        return self.adaptor.num_experts - self.adaptor.banks[-1].num_experts


class Lemoe:
    """Adds experts batch by batch; all earlier ones and the backbone stay frozen."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        _check_fit(config, backbone)
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._backbone = backbone
        self._generator = generators.init
        self._path = backbone.ffn_path(config.edit_layer)
        self._frozen = FrozenFfn.of_layer(backbone, config.edit_layer)
        self._split = Split(backbone, config.edit_layer, artefacts.prefix_cache)
        self._site = Site(backbone, config.edit_layer, self._path, artefacts.prefix_cache)
        self._embedder = prompt_embedder(config, backbone, artefacts)
        self._centre, self._has_own_centre = self._embedder.middle(), config.uses_sentences
        self._forget()

    def _forget(self) -> None:
        self._embedder.forget_subjects()
        self._bypass: _Bypass | None = None
        self._owners: list[int] = []
        self.run: BatchRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Take the centre of the anchors from `training`, none of which is edited."""
        if self._config.routing != "kv_anchor" or not training:
            return
        self._has_own_centre = True
        some = [record.edit for record in training[:_MAX_CENTRE_EDITS]]
        self._embedder.add_subjects(some)
        prompts = prompt_batch(self._backbone.tokenizer, [edit.prompt for edit in some])
        self._centre = self._embedder.instance(prompts.to(self._backbone.device)).mean(0)
        self._embedder.forget_subjects()  # none of them is edited

    def begin(self, batch: EditBatch) -> None:
        """Add the batch's experts with their keys, and set up AdamW on them."""
        self._embedder.add_subjects(batch.edits)
        bypass = self._bypass or self._attach()
        embeddings = self._embedder.instance(batch.tokens)
        means = group_means(embeddings, self._config.num_experts, self._generator)
        bypass.adaptor.add_bank(self._bank(len(means)))
        bypass.routing.router.add(means, self._generator)
        counts = self._embedder.fall_backs(batch.tokens)
        if self._config.routing == "kv_anchor" and not self._has_own_centre:
            counts["centre_from_table"] = 1
        if len(means) < self._config.num_experts:
            counts["experts_not_added"] = self._config.num_experts - len(means)
        self._start(bypass, batch, counts)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` AdamW steps; True when the batch is done."""
        return begun(self.run).advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze the batch's experts and keys."""
        run, bypass = begun(self.run), begun(self._bypass)
        bypass.adaptor.freeze_banks()
        bypass.routing.router.freeze()
        own = self._shares(run.batch.tokens, bypass.newest)
        self._owners += (own.argmax(1) + bypass.newest).tolist()
        self.run = None
        return run.report()

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V); a route per prompt is taken from its tokens once and kept in `state`."""
        if self._bypass is None:
            return self._split.logits(prompts, state)
        routing = self._bypass.routing
        kept = state.route if state is not None else None
        features = routing.features(prompts) if kept is None else kept
        if state is not None:
            state = replace(state, route=routing.kept(features))
        with self._bypass.adaptor.routed(routing.route(features)):
            return self._split.logits(prompts, state)

    def routes(self, prompts: PromptBatch) -> Tensor:
        """The expert that each prompt is sent to at inference, (B,); -1 before the first edit.

        Experts are numbered from 0 in the order of their making. Where tokens are routed one by
        one, the expert that most of the prompt's tokens go to; of several, the first.
        """
        if self._bypass is None:
            return torch.full_like(prompts.prompt_lengths, -1)
        return self._shares(prompts).argmax(1)

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the expert that learned it.

        Within a batch of several experts, the one that the edit's prompt was sent to when the
        batch ended. The share of edits whose `routes` now equals this is the own-expert rate.
        """
        return list(self._owners)

    def inference_bytes(self) -> int:
        """Experts, keys with their centre, and what embeds a prompt beside the backbone."""
        if self._bypass is None:
            return 0
        parts = self._bypass.adaptor, self._bypass.routing.router
        kept = sum(each.nbytes for part in parts for each in part.state().tensors.values())
        return kept + self._embedder.num_bytes

    def state(self) -> State:
        """Experts, keys and centre; the optimisation too when a batch is under way."""
        state = State(
            tensors={"centre": self._centre, "generator": self._generator.get_state()},
            values={"owners": list(self._owners)},
        )
        if self._embedder.finder is not None:
            state.values["subjects"] = list(self._embedder.finder.subjects)
        if self._bypass is not None:
            state.nest("adaptor", self._bypass.adaptor.state())
            state.nest("router", self._bypass.routing.router.state())
        if self.run is not None:
            self.run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.remove()
        values: dict[str, Any] = dict(state.values)
        self._centre = state.tensors["centre"].to(self._centre)
        self._owners = list(values["owners"])
        if self._embedder.finder is not None:
            self._embedder.finder.add_subjects(values["subjects"])
        if "adaptor" in values:
            bypass = self._attach()
            bypass.adaptor.load(state.inner("adaptor"), self._bank)
            bypass.routing.router.load(state.inner("router"))
            batch = stored_batch(state, self._backbone.device)
            if batch is None:
                bypass.adaptor.freeze_banks()
            else:
                self._start(bypass, batch, {}).resume(state)
        # Last: building banks and router above drew from it.
        self._generator.set_state(state.tensors["generator"].cpu())

    def remove(self) -> None:
        """Put the FFN back in its place and forget all edits."""
        if self._bypass is not None:
            replace_module(self._backbone.model, self._path, self._bypass.adaptor.frozen)
        self._forget()

    def _attach(self) -> _Bypass:
        model = self._backbone.model
        adaptor = Adaptor(get_module(model, self._path), self._config.bypass_weight)
        replace_module(model, self._path, adaptor)
        routing = PromptRouting(self._build_router(), self._embedder, _reads(self._config))
        self._bypass = _Bypass(adaptor, routing)
        return self._bypass

    def _build_router(self) -> Router:
        config, centre = self._config, self._centre
        if config.routing == "conventional":
            return HiddenRouter(centre, config.top_k)
        if config.routing == "knowledge_anchor":
            return HiddenRouter(centre, config.top_k, anchor_size=len(centre))
        if config.anchor == "frozen":
            temperature, sums_to_one = config.router_temperature, config.renormalises_gates
            return FrozenAnchors(centre, config.top_k, temperature, renormalises=sums_to_one)
        size = config.projection_size or max(1, len(centre) // 4)
        return LearnedKeys(centre, size, config.top_k, self._generator)

    def _bank(self, num_experts: int) -> Bank:
        if self._config.expert == "ffn":
            return FfnBank(num_experts, self._frozen)
        told = num_experts, self._backbone.hidden_size, self._config.lora_rank
        alpha, like = self._config.lora_alpha, self._frozen.up
        return LoraBank(*told, lora_alpha=alpha, generator=self._generator, like=like)

    def _start(self, bypass: _Bypass, batch: EditBatch, counts: dict[str, int]) -> BatchRun:
        """Set up the optimisation of the newest bank and of what the router trains."""
        adaptor, routing, first = bypass.adaptor, bypass.routing, bypass.newest
        tokens, rows = batch.tokens, TargetRows.of(row_index(batch.tokens))
        with adaptor.routed(adaptor.closed(len(batch))):
            x, frozen = self._site.frozen(tokens)
        features = routing.features(tokens)
        # Frozen keys give the same gates in every step.
        is_fixed = isinstance(routing.router, FrozenAnchors)
        fixed = routing.route(features, first) if is_fixed else None

        def loss() -> Passing:
            route = routing.route(features, first) if fixed is None else fixed
            output = frozen + adaptor.added(x, route).to(frozen.dtype)
            losses = yield self._site.passage(token_losses, tokens, output, batch.labels)
            return row_loss(losses, rows)

        config = self._config
        told = config.edit_lr, config.num_steps, config.stop_loss, config.weight_decay
        settings = OptimiserSettings("adamw", *told)
        parameters = {**dict(adaptor.banks[-1].named_parameters()), **routing.router.trainable()}
        agreed = self._backbone.micro_batch.agreed
        optimisation = Optimisation(parameters, PassingLoss(loss), settings, agreed=agreed)
        self.run = BatchRun(batch, optimisation, counts)
        return self.run

    def _shares(self, prompts: PromptBatch, first: int = 0) -> Tensor:
        """How much of each prompt the router would send to each expert from `first` on, (B, E)."""
        bypass = begun(self._bypass)
        return bypass.routing.shares(prompts, bypass.adaptor, self._split.logits, first)


def _reads(config: Config) -> Reads:
    if config.routing == "conventional":
        return Reads.HIDDEN
    if config.routing == "knowledge_anchor":
        return Reads.HIDDEN_AND_ANCHOR
    return Reads.TOKEN if config.embedding == "token" else Reads.INSTANCE


def _check_fit(config: Config, backbone: Backbone) -> None:
    """Raises ConfigError when the layer or the rank does not exist in this backbone."""
    check_edit_layer(config.edit_layer, backbone)
    if config.expert == "lora" and config.lora_rank > backbone.hidden_size:
        raise ConfigError(
            f"method.lora_rank is {config.lora_rank}; it must lie in "
            f"[1, {backbone.hidden_size}], the backbone's width"
        )


VERSION = 5  # bytes count the centre once, and a sentence encoder
CONFIG = Config
METHOD = Lemoe
