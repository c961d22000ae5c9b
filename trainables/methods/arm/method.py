"""ARM (MoKE): K masked experts of one FFN output projection, chosen by activation.

Source: "Serial Lifelong Editing via Mixture of Knowledge Experts": Eq. 2 and 3 (choice of the
expert), 4 to 6 (margin and memory loss), 7 (projection router), 8 and 9 (inference), 13 (EMR),
Appendices B (settings, augmentation, memory) and D.3 (compression).

Deviations, and choices where the paper is silent or contradicts itself:
- The edit's own likelihood is part of the loss. L_mar + L_mem as printed never moves
  (moe/side_training.py says why). `margin_weight` weighs L_mar + L_mem against it.
- Act_i of Eq. 2 is delta_i of Eq. 4 in its token mean over the prompt; `activation` offers others,
  and moe/side_memory.py says why the value inside the FFN, as worded, cannot select.
- S_i = 0 when an expert does not act on the edit at all, as all do before the first one: the edit
  is then new, and Uni(0, K) draws one of the K experts. Without any unrelated prompt there is no
  S_i; the expert is drawn, counted as `no_selection_score`.
- Table 4's "Fix Selection" is described as cyclic: it is `expert_selection: cyclic`.
- beta' is not published. `abstain_threshold: null` takes `abstain_ratio` times the smallest
  max_i delta_i that an edited prompt had when its edit ended, as WISE does; of the merged experts.
- The router reads the projection's input at the last prompt token, standardised by its mean and
  spread over the prompts given to `prepare`; or the prompt's mean input embedding.
- Experts go on training as they are; what inference uses is merged from them after each batch. A
  merging other than EMR leaves one delta for all routes.
- A route is decided on prompt tokens, once, and kept while decoding.
- Smaller choices are told where they are made: memory.py and router.py in this folder,
  side_memory.py, side_plan.py and augmentation.py in moe/, and assemblies/side_editor.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.side_editor import SideEditor, SideRun, SideSettings
from trainables.errors import ConfigError
from trainables.field_kinds import (
    Count,
    CountOrZero,
    Positive,
    PositiveOrZero,
    PositiveShare,
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
from trainables.methods.arm.memory import EditMemory
from trainables.methods.arm.router import (
    ProjectionRouter,
    RouterOptimiser,
    Routing,
    expert_route,
)
from trainables.moe.augmentation import Augmentation
from trainables.moe.embeddings import PromptEmbedder
from trainables.moe.merging import Compression, compressed
from trainables.moe.side_memory import (
    Activation,
    MarginUnit,
    SideMemories,
    random_masks,
    selection_scores,
)
from trainables.moe.side_plan import BatchPlan, Remembered, Selection, select_experts
from trainables.moe.side_training import EditRows, LossTerms, at_ends
from trainables.moe.thresholds import just_below
from trainables.optimise import BatchRun, begun, stored_batch

RouterInput = Literal["down_input", "embedding"]
Masks = Literal["random", "disjoint"]


@checked
class Config:
    """Settings of ARM.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection gets the experts, from 0.
        num_experts: K.
        mask_ratio: rho, share of the projection's entries that an expert trains.
        masks: Drawn independently, or disjoint (needs K * rho <= 1).
        expert_selection: Who learns an edit; see the module's docstring.
        selection_threshold: epsilon of Eq. 3, in [0, 1]; read by `arm` alone.
        activation: Act_i and delta_i.
        margin_unit: Unit of margins and rate; see assemblies/side_editor.py.
        margin_far: alpha of Eq. 5.
        margin_edit: beta of Eq. 5.
        margin_gap: gamma of Eq. 5 and 6.
        margin_weight: Weight of L_mar + L_mem beside the edit's likelihood.
        margin_term: Whether L_mar is part of the loss.
        memory_term: Whether L_mem is.
        likelihood_term: Whether the likelihood of the edit's target is; the paper prints none.
        memory_size: Most edits remembered for L_mem; at the limit a drawn one is removed.
        augmentation: Further forms of an edit's prompt: random prefixes, changed subjects.
        num_prefixes: So many further forms.
        num_locality_rows: Unrelated prompts x_o for each edit.
        edit_lr: SGD's rate, in the margins' unit.
        num_steps: Most steps per batch of edits.
        stop_loss: A batch is done below this loss; None: never early.
        router_optimiser: Of the projection router.
        router_lr: Its rate.
        router_input: What the router reads.
        inference_routing: Who routes at inference (Table 5).
        abstain_threshold: beta' in the margins' unit; None: by `abstain_ratio`.
        abstain_ratio: See the module's docstring.
        merging: What inference makes of the experts (Table 13).
        merge_density: Share of entries kept by TIES and DARE-TIES, (0, 1].
    """

    edit_layer: int
    num_experts: Count
    mask_ratio: PositiveShare
    masks: Masks
    expert_selection: Selection
    selection_threshold: Share
    activation: Activation
    margin_unit: MarginUnit
    margin_far: PositiveOrZero
    margin_edit: PositiveOrZero
    margin_gap: PositiveOrZero
    margin_weight: PositiveOrZero
    margin_term: bool
    memory_term: bool
    likelihood_term: bool
    memory_size: Count
    augmentation: Augmentation
    num_prefixes: CountOrZero
    num_locality_rows: CountOrZero
    edit_lr: Positive
    num_steps: Count
    stop_loss: float | None
    router_optimiser: RouterOptimiser
    router_lr: Positive
    router_input: RouterInput
    inference_routing: Routing
    abstain_threshold: PositiveOrZero | None
    abstain_ratio: PositiveOrZero
    merging: Compression
    merge_density: PositiveShare

    def __post_init__(self) -> None:
        if self.masks == "disjoint" and self.num_experts * self.mask_ratio > 1 + 1e-9:
            raise ConfigError(
                f"method.mask_ratio is {self.mask_ratio:g}; with method.masks=disjoint it must be "
                f"in (0, {1 / self.num_experts:g}], 1 / method.num_experts"
            )


class Arm:
    """K side experts, one of which answers each prompt."""

    changes_in_finish = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._backbone = backbone
        self._generator = generators.init
        self._editor = SideEditor(
            SideSettings.from_config(config), backbone, artefacts, generators.noise
        )
        self._embedder = PromptEmbedder(backbone.embedding, None)
        self._forget()

    def _forget(self) -> None:
        self._editor.forget()
        self._owners: list[int] = []
        self._memory = EditMemory(self._config.memory_size)
        self._least_activation = float("inf")
        self._router: ProjectionRouter | None = None
        self._serving: SideMemories | None = None
        self._bytes = 0
        self._merge_seed = 0
        self.run: SideRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Scale and prefixes of the pristine backbone, through artefacts."""
        self._editor.prepare(training)

    def begin(self, batch: EditBatch) -> None:
        """Choose an expert for each edit (Eq. 2 and 3) and set up SGD on the chosen ones."""
        config, generator = self._config, self._editor.generator
        plan = self._editor.plan_batch(batch)
        if self._router is None:
            self._make_experts()
        rows = self._editor.rows(batch, plan)
        with torch.no_grad():
            scores = selection_scores(*rows.activations(self._editor.memories))
        plan.numbers["selection_score"] = float(scores.amax(1).mean())
        plan.owners.extend(
            select_experts(
                scores,
                config.expert_selection,
                config.selection_threshold,
                plan=plan,
                first_edit=len(self._owners),
                generator=generator,
            )
        )
        present = {edit.prompt for edit in batch.edits}
        for index, owner in enumerate(plan.owners if config.memory_term else ()):
            found = self._memory.recall(owner, present, generator)
            if found is not None:
                plan.remembered.append(Remembered(index, *found))
        self._start(batch, plan, rows)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps of experts and router; True when the batch is done."""
        return begun(self.run).work.advance(max_steps)

    @torch.no_grad()
    def finish(self) -> EditReport:
        """Write the trained experts, remember the edits, and merge anew for inference."""
        run = begun(self.run)
        run.training.commit()
        self._owners += run.plan.owners
        for edit, owner in zip(run.work.batch.edits, run.plan.owners, strict=True):
            self._memory.add(edit.prompt, owner)
        self._merge_seed = int(torch.randint(2**31 - 1, (1,), generator=self._generator))
        own, far = run.rows.activations(self._serve())
        self._least_activation = min(self._least_activation, float(own.amax(1).min()))
        self.run = None
        return run.report(
            self._editor.numbers()
            | run.plan.numbers
            | {
                "edit_activation": float(own.amax(1).mean()),
                "far_activation": float(far.amax(1).mean()),
                "abstain_threshold": self._abstain_below,
            }
        )

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) with the routed expert of each prompt; the route stays in `state`."""
        if self._serving is None:
            return self._editor.site.split.logits(prompts, state)
        return self._editor.answer(prompts, state, self._serving.deltas, self._route)

    def routes(self, prompts: PromptBatch) -> Tensor:
        """The expert that answers each prompt at inference, (B,); -1: the original weights."""
        if self._serving is None:
            return torch.full_like(prompts.prompt_lengths, -1)
        return self._editor.routes(prompts, self._route)

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the expert that learned it."""
        return list(self._owners)

    def inference_bytes(self) -> int:
        """The router and the experts as they are merged for inference; deltas dense."""
        return self._bytes

    def state(self) -> State:
        """Experts, router, memory and scale; what a batch under way drew and trains too."""
        state = State(
            {"generator_init": self._generator.get_state()},
            {
                "owners": list(self._owners),
                "memory": self._memory.to_json(),
                "merge_seed": self._merge_seed,
                "least_activation": self._least_activation if self._owners else None,
            },
        )
        state.nest("editor", self._editor.state())
        if self._router is not None:
            state.nest("router", self._router.state())
        if self.run is not None:
            self.run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._forget()
        values: dict[str, Any] = dict(state.values)
        self._editor.load(state.inner("editor"))
        self._owners = list(values["owners"])
        self._memory.load(values["memory"])
        self._merge_seed = int(values["merge_seed"])
        if values["least_activation"] is not None:
            self._least_activation = float(values["least_activation"])
        if "router" in values:
            self._router = self._new_router()
            self._router.load(state.inner("router"))
        if self._owners:
            self._serve()
        batch = stored_batch(state, self._backbone.device)
        if batch is not None:
            plan = BatchPlan.from_json(values["plan"])
            self._start(batch, plan, self._editor.rows(batch, plan)).resume(state)
        self._generator.set_state(state.tensors["generator_init"].cpu())

    def remove(self) -> None:
        """Forget all experts; the backbone itself was never changed."""
        self._forget()

    def _make_experts(self) -> None:
        """K experts that change nothing yet, and the router over them."""
        config, device = self._config, self._backbone.device
        masks = random_masks(
            config.num_experts,
            self._editor.size,
            config.mask_ratio,
            self._generator,
            is_disjoint=config.masks == "disjoint",
        )
        for mask in masks:
            self._editor.memories.add(mask.to(device))
        self._router = self._new_router()

    def _new_router(self) -> ProjectionRouter:
        backbone, config = self._backbone, self._config
        size = backbone.ffn_size if config.router_input == "down_input" else backbone.hidden_size
        return ProjectionRouter(
            size,
            config.num_experts,
            config.router_lr,
            backbone.device,
            optimiser=config.router_optimiser,
        )

    def _start(self, batch: EditBatch, plan: BatchPlan, rows: EditRows) -> SideRun:
        editor, config, router = self._editor, self._config, begun(self._router)
        terms = LossTerms(
            editor.settings.margins,
            config.margin_weight,
            has_margin=config.margin_term,
            has_likelihood=config.likelihood_term,
        )
        training = editor.training(rows, plan, terms)
        features = self._features(rows.edited.inputs, rows.edited.tokens)

        def teach_router() -> None:
            router.step(features, training.row_owners)

        work = BatchRun(batch, editor.optimisation(training, teach_router))
        self.run = SideRun(work, plan, rows, training)
        return self.run

    @property
    def _abstain_below(self) -> float:
        """What max_i delta_i must reach: beta' of Eq. 9."""
        fixed = self._config.abstain_threshold
        least = just_below(self._least_activation, self._backbone.dtype)
        return self._config.abstain_ratio * least if fixed is None else fixed

    @torch.no_grad()
    def _serve(self) -> SideMemories:
        """What inference uses from now on: the experts, or what merging makes of them."""
        config, memories = self._config, self._editor.memories
        # Drawn anew from a kept seed, so that a state that is loaded serves the same weights.
        generator = torch.Generator().manual_seed(self._merge_seed)
        self._serving = SideMemories(memories.measure)
        self._serving.deltas, num_bytes = compressed(
            memories.deltas, config.merging, density=config.merge_density, generator=generator
        )
        self._bytes = num_bytes + begun(self._router).num_bytes
        return self._serving

    @torch.no_grad()
    def _route(
        self, inputs: Tensor, outputs: Tensor, prompts: PromptBatch, counted: Tensor
    ) -> Tensor:
        """Expert of each prompt or -1, (B,), from prompt tokens alone."""
        return expert_route(
            begun(self._serving).activations(inputs, outputs, counted),
            begun(self._router).scores(self._features(inputs, prompts)),
            self._config.inference_routing,
            self._abstain_below,
        )

    @torch.no_grad()
    def _features(self, inputs: Tensor, prompts: PromptBatch) -> Tensor:
        """What the router reads, (B, F) or (B, D)."""
        if self._config.router_input == "embedding":
            return self._embedder.instance(prompts).float() / self._embedder.table_std()
        scale = self._editor.scale
        return (at_ends(inputs, prompts) - scale.centre) / scale.spread


VERSION = 4  # in bfloat16 the edit that set a threshold reaches it
CONFIG = Config
METHOD = Arm
