"""MEMoE v1: a few experts beside the FFN of one layer, and knowledge anchors that route to them.

Source: "MEMoE: Enhancing Model Editing with Mixture of Experts Adaptors" (arXiv:2405.19086; its
text says MOMoE): Eq. 9 (gates), 10 and 11 (adaptor), 12 (knowledge anchor), 14 (token), 15
(sentence), Section 5.3 (soft merging), Appendix D (settings, NLTK, Switch's auxiliary loss).

Sequential batches ("without rollback", Section 4.1): the paper adds nothing per batch and reports
that earlier edits are forgotten. The same experts and router go on training, with a fresh AdamW
for every batch; that part is a choice.

Deviations:
- `anchor_scale: rescaled` (the default) divides anchor and sentence embeddings by the standard
  deviation of the embedding table. Joined literally (`raw`, Eq. 12 and 15 as printed) they are
  some ten times smaller than the normalised hidden state beside them, and a gate hardly sees them.
- Only prompt tokens make an anchor or a sentence embedding: a route must not see the target.
- The loss is a mean over a target's tokens and over edits, where Eq. 3 sums. What `stop_loss` is
  compared with is that alone, without the balance loss.

Choices where the paper is silent:
- The optimiser is AdamW, as in the papers that follow this one.
- x_i is the FFN's input, after the norm. Experts are FFN-shaped (`expert: ffn`): copied up
  projection, zero down projection, the backbone's own gate projection. LEMoE lists these weights
  for its run of MEMoE. `dense` is W_e of Eq. 10 as a D x D map, `down` a second down projection.
- Gates are plain probabilities, as Eq. 9 prints them; `renormalises_gates` scales the kept ones up
  to sum 1, and at top-1 leaves the router its balance loss alone.
- Noise is added to the router's logits while training: normal, of standard deviation
  `router_noise`. Its size is not published; 0 is the default, as nothing was gained by more.
- Balance loss: over all real tokens of the batch, targets included (over prompts where prompts are
  routed), weighted by .01 as in Switch Transformers. The paper balances "the top-k selection", so
  `merging: soft`, which selects nothing, goes without.
- Soft merging mixes the parameters of all experts by their gates, as the work that the paper cites
  for it does; `soft_outputs` mixes what they answer. They are the same but for FFN-shaped experts.
- Entities: NLTK's binary chunker, without the question words that it takes for names, as in
  moe/entities.py; the report counts what stood in for them. `anchor_source: subject` looks in a
  prompt for the subjects of all edits so far, the longest first; which edit a prompt asks about is
  never told. With no subject in it the whole prompt stands in.
- `routing_input: anchor_only` routes a prompt as a whole by its anchor: not published, and the one
  input that sends all tokens of a prompt to one expert.
- More experts than edits in a batch: all are kept, because tokens are routed and experts stay for
  later batches. The report counts those beyond as `experts_beyond_edits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.anchor_finder import anchor_finder
from trainables.assemblies.bypass import Bypass
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
from trainables.moe.embeddings import PromptEmbedder
from trainables.moe.entities import AnchorSource, AnchorWords
from trainables.moe.experts import ExpertShape, Merging, bank_of
from trainables.moe.losses import balance_loss
from trainables.moe.nltk_data import NltkData
from trainables.moe.routers import HiddenRouter
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
from trainables.prompts import row_index

RoutingInput = Literal["token", "sentence", "anchor", "anchor_only"]
AnchorScale = Literal["rescaled", "raw"]

_READS = {
    "token": Reads.HIDDEN,
    "sentence": Reads.HIDDEN_AND_ANCHOR,
    "anchor": Reads.HIDDEN_AND_ANCHOR,
    "anchor_only": Reads.INSTANCE,
}


@checked
class Config:
    """Settings of MEMoE v1.

    Attributes:
        edit_layer: Decoder layer whose FFN gets the bypass, from 0.
        expert: Shape of an expert.
        num_experts: E of Eq. 9 to 11.
        top_k: Experts per token; not read by soft merging, which uses all.
        merging: How experts are combined; see the module's docstring.
        renormalises_gates: Kept gates sum to 1.
        routing_input: R of Eq. 9.
        anchor_source: Where anchors come from.
        anchor_words: Whether question words may be anchors; read with `anchor_source: entity`.
        anchor_scale: Size of anchor and sentence embeddings.
        router_noise: Standard deviation of the noise of Eq. 9, while training.
        balance_weight: Weight of the balance loss.
        bypass_weight: lambda of Eq. 11.
        edit_lr: AdamW's learning rate.
        num_steps: Most steps per batch of edits.
        stop_loss: A batch is done below this loss, nats per token; None: never early.
        weight_decay: AdamW's.
    """

    edit_layer: int
    expert: ExpertShape
    num_experts: Count
    top_k: int
    merging: Merging
    renormalises_gates: bool
    routing_input: RoutingInput
    anchor_source: AnchorSource
    anchor_words: AnchorWords
    anchor_scale: AnchorScale
    router_noise: PositiveOrZero
    balance_weight: PositiveOrZero
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
    def num_selected(self) -> int:
        """Experts that a token uses: `top_k`, or all where they are merged softly."""
        return self.top_k if self.merging == "top_k" else self.num_experts

    @property
    def uses_anchors(self) -> bool:
        """True where the entities or subjects of a prompt are asked for."""
        return self.routing_input in ("anchor", "anchor_only")

    @property
    def nltk_data(self) -> tuple[NltkData, ...]:
        """The data of NLTK that these settings make the method read."""
        return ("chunker",) if self.uses_anchors and self.anchor_source == "entity" else ()


class MemoeV1:
    """Trains one bank of experts and its router, batch after batch; the backbone stays frozen."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        merges = config.merging == "soft"
        self._bypass = Bypass(
            backbone,
            config.edit_layer,
            partial(bank_of, config.expert, merges_parameters=merges),
            artefacts.prefix_cache,
            num_experts=config.num_experts,
            bypass_weight=config.bypass_weight,
        )
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._backbone = backbone
        self._generators = generators
        finder = None
        if config.uses_anchors:
            finder = anchor_finder(config, backbone.tokenizer, artefacts)
        self._embedder = PromptEmbedder(backbone.embedding, finder)
        self._forget()

    def _forget(self) -> None:
        self._embedder.forget_subjects()
        self._router = self._build_router()
        self._routing = PromptRouting(
            self._router,
            self._embedder,
            _READS[self._config.routing_input],
            rescales=self._config.anchor_scale == "rescaled",
        )
        self._owners: list[int] = []
        self.run: BatchRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing is learned from other edits."""

    def begin(self, batch: EditBatch) -> None:
        """Add the experts before the first batch; train them and the router on this one."""
        self._embedder.add_subjects(batch.edits)
        config = self._config
        if not self._bypass.is_attached:
            self._bypass.attach()
            rows = torch.zeros(config.num_experts, self._backbone.hidden_size)
            self._router.add(rows, self._generators.init)
        counts = self._embedder.fall_backs(batch.tokens)
        if len(batch) < config.num_experts:
            counts["experts_beyond_edits"] = config.num_experts - len(batch)
        self._start(batch, counts)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` AdamW steps; True when the batch is done."""
        return begun(self.run).advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze experts and router until the next batch; note where each edit is sent."""
        run = begun(self.run)
        self._bypass.freeze()
        self._router.freeze()
        self._owners += self.routes(run.batch.tokens).tolist()
        self.run = None
        return run.report()

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V); a prompt's anchor is taken from its tokens once and kept in `state`."""
        if not self._bypass.is_attached:
            return self._bypass.logits(prompts, state, None)
        kept = state.route if state is not None else None
        features = self._routing.features(prompts) if kept is None else kept
        if state is not None:
            state = replace(state, route=self._routing.kept(features))
        return self._bypass.logits(prompts, state, self._routing.route(features))

    @torch.no_grad()
    def token_routes(self, prompts: PromptBatch) -> Tensor:
        """The expert with the largest gate for each prompt token at inference, (B, T).

        -1 on targets and padding, and everywhere before the first edit.
        """
        nowhere = torch.full_like(prompts.input_ids, -1)
        if not self._bypass.is_attached:
            return nowhere
        x, _ = self._bypass.frozen(prompts)
        best = self._routing.scores(self._routing.features(prompts), x).argmax(-1)
        if best.dim() == 1:  # one route for all tokens of a prompt
            best = best[:, None]
        return torch.where(prompts.prompt_mask, best, nowhere)

    def routes(self, prompts: PromptBatch) -> Tensor:
        """The expert that most tokens of each prompt are sent to, (B,); -1 before the first edit.

        Of several that take equally many, the first.
        """
        routes = self.token_routes(prompts)
        if not self._bypass.is_attached:
            return routes[:, 0]
        experts = torch.arange(self._config.num_experts, device=routes.device)
        return (routes[..., None] == experts).sum(1).argmax(1)

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the expert of most of its prompt when its batch ended."""
        return list(self._owners)

    def state(self) -> State:
        """Experts and router; the optimisation too when a batch is under way."""
        generators = {"init": self._generators.init, "noise": self._generators.noise}
        state = State(
            tensors={f"generator_{key}": value.get_state() for key, value in generators.items()},
            values={"owners": list(self._owners)},
        )
        if self._embedder.finder is not None:
            state.values["subjects"] = list(self._embedder.finder.subjects)
        state.nest("experts", self._bypass.state())
        state.nest("router", self._router.state())
        if self.run is not None:
            self.run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.remove()
        values: dict[str, Any] = dict(state.values)
        self._owners = list(values["owners"])
        if self._embedder.finder is not None:
            self._embedder.finder.add_subjects(values["subjects"])
        self._bypass.load(state.inner("experts"))
        self._router.load(state.inner("router"))
        batch = stored_batch(state, self._backbone.device)
        if batch is not None:
            self._start(batch, {}).resume(state)
        for key, generator in (("init", self._generators.init), ("noise", self._generators.noise)):
            generator.set_state(state.tensors[f"generator_{key}"].cpu())

    def remove(self) -> None:
        """Put the FFN back in its place and forget all edits."""
        self._bypass.remove()
        self._forget()

    def _build_router(self) -> HiddenRouter:
        config = self._config
        like = self._embedder.table_mean()
        joins = _READS[config.routing_input] is Reads.HIDDEN_AND_ANCHOR
        return HiddenRouter(
            like,
            config.num_selected,
            anchor_size=len(like) if joins else 0,
            renormalises=config.renormalises_gates,
        )

    def _start(self, batch: EditBatch, counts: dict[str, int]) -> BatchRun:
        """Set up the optimisation of all experts and the router."""
        tokens, rows = batch.tokens, TargetRows.of(row_index(batch.tokens))
        experts = self._bypass.thaw()
        self._router.thaw()
        frozen = self._bypass.frozen(tokens)
        x, features = frozen[0], self._routing.features(tokens)
        real = tokens.attention_mask.nonzero(as_tuple=True)

        def loss() -> Passing:
            scores = self._noisy(self._routing.scores(features, x), tokens)
            gates = self._router.gates_of(scores)
            losses = yield self._bypass.passage(token_losses, tokens, frozen, gates, batch.labels)
            balance = self._balance(scores, real)
            # Its gradient without its value: the stop rule and the report are about the edits.
            return row_loss(losses, rows) + (balance - balance.detach())

        config = self._config
        settings = OptimiserSettings(
            "adamw", config.edit_lr, config.num_steps, config.stop_loss, config.weight_decay
        )
        optimisation = Optimisation(
            {**experts, **self._router.trainable()},
            PassingLoss(loss),
            settings,
            agreed=self._backbone.micro_batch.agreed,
        )
        self.run = BatchRun(batch, optimisation, counts)
        return self.run

    def _noisy(self, scores: Tensor, tokens: PromptBatch) -> Tensor:
        """Router logits with the noise of Eq. 9, drawn on the CPU.

        Of tokens' logits, (B, T, E), for real ones alone: how wide rows are padded changes nothing.
        """
        if self._config.router_noise == 0:
            return scores
        is_each = scores.dim() == 3
        drawn = tokens.on_host.attention_mask.bool() if is_each else torch.ones(len(scores)).bool()
        noise = torch.zeros(scores.shape)
        size = int(drawn.sum()), scores.shape[-1]
        noise[drawn] = torch.randn(size, generator=self._generators.noise)
        return scores + self._config.router_noise * noise.to(
            scores.device, scores.dtype, non_blocking=True
        )

    def _balance(self, scores: Tensor, real: tuple[Tensor, ...]) -> Tensor:
        """Weighted balance loss of router logits (B, E), or of (B, T, E) at the `real` tokens."""
        if self._config.merging != "top_k":
            return scores.new_zeros(())
        routed = scores if scores.dim() == 2 else scores[real]
        loss = balance_loss(routed.softmax(-1), self._config.top_k)
        return self._config.balance_weight * loss


# Question words are no anchors, no subject stands in for NLTK's entities, and all bytes of an
# entity's last letter belong to it.
VERSION = 4  # noise is drawn for real tokens alone
CONFIG = Config
METHOD = MemoeV1
