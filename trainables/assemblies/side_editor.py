"""What WISE and ARM share: side memories of one FFN output projection, and their training.

Sources: WISE (arXiv:2405.14768); ARM (Serial Lifelong Editing via Mixture of Knowledge Experts),
Section 3.2 and Appendix B.

Choices where the papers are silent:
- Attention sinks count in no mean over tokens, neither in a scale nor in an activation: see
  backbones/token_statistics.py. The public codes of WISE and ARM average over them.
- `margin_unit: absolute` takes margins and rate as published; both are bound to the activations of
  LLaMA2-7B. `residual` measures activations in units of r, the median over prompts of the
  token-mean norm of the residual stream that enters the edited FFN, and sets the rate of SGD to
  edit_lr * r^2 / A, with A the same median of the squared norm of the projection's input: the same
  edit_lr then moves the activation alike on every backbone. Both numbers stand in the report.
- They are taken over the prompts given to `prepare`, which are never edited; without any, over the
  prompts of the first batch, counted as `scale_from_edits`.
- Random prefixes are sampled once from the pristine backbone, with a fixed seed, two lengths behind
  each of five openings, stored, and shared by all trials; each edit draws its own among them.
- The unrelated prompts of an edit are drawn from those it brings; too few are counted as
  `locality_rows_missing`, and without any the margin keeps its first term alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import stored_prefixes
from trainables.backbones.hidden_states.down_site import DownScale, DownSite
from trainables.backbones.hidden_states.token_statistics import SINK_RATIO, ordinary_tokens
from trainables.backbones.layers import check_edit_layer
from trainables.backbones.surgery import get_module
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.moe.augmentation import Augmentation, augmented_prompts, lacks_subject, sampled
from trainables.moe.side_memory import (
    Activation,
    Margins,
    MarginUnit,
    Measure,
    SideMemories,
    added,
)
from trainables.moe.side_plan import BatchPlan, count
from trainables.moe.side_training import EditRows, LossTerms, SideTraining
from trainables.optimise import BatchRun, Optimisation, OptimiserSettings
from trainables.passing import PassingLoss

_MAX_SCALE_PROMPTS = 200  # a median hardly changes beyond

# (projection's input, its output, prompts, tokens that count) -> route
Decide = Callable[[Tensor, Tensor, PromptBatch, Tensor], Tensor]


@dataclass(frozen=True)
class SideSettings:
    """Settings that WISE and ARM have in common; see their Configs."""

    edit_layer: int
    mask_ratio: float
    activation: Activation
    margin_unit: MarginUnit
    margin_far: float
    margin_edit: float
    margin_gap: float
    margin_weight: float
    augmentation: Augmentation
    num_prefixes: int
    num_locality_rows: int
    edit_lr: float
    num_steps: int
    stop_loss: float | None

    @classmethod
    def from_config(cls, config: object) -> SideSettings:
        """The shared fields of a method's Config."""
        return cls(**{name: vars(config)[name] for name in cls.__dataclass_fields__})

    @property
    def margins(self) -> Margins:
        """alpha, beta and gamma."""
        return Margins(self.margin_far, self.margin_edit, self.margin_gap)


@dataclass
class SideRun:
    """A batch under way, with its plan, its token rows and its training."""

    work: BatchRun
    plan: BatchPlan
    rows: EditRows
    training: SideTraining

    @property
    def optimisation(self) -> Optimisation:
        """The loop that learns its edits."""
        return self.work.optimisation

    def store(self, state: State) -> None:
        """Add to a method's state what this batch needs to go on."""
        state.values["plan"] = self.plan.to_json()
        self.work.store(state)
        state.nest("training", self.training.state())

    def resume(self, state: State) -> None:
        """Go on with what `store` wrote; the batch and its plan were given already."""
        self.training.load(state.inner("training"))
        self.work.resume(state)

    def report(self, numbers: Mapping[str, float]) -> EditReport:
        """The batch's report, with `numbers` added."""
        return replace(self.work.report(), counts=self.plan.counts, numbers=numbers)


class SideEditor:
    """Memories of one layer, the texts that a batch trains on, and their optimisation."""

    def __init__(
        self,
        settings: SideSettings,
        backbone: Backbone,
        artefacts: Artefacts,
        generator: torch.Generator,
    ) -> None:
        """No memory yet; nothing is put into the backbone.

        Raises:
            ConfigError: If the backbone has no such layer.
        """
        layer = settings.edit_layer
        check_edit_layer(layer, backbone)
        self.settings = settings
        self.site = DownSite(backbone, layer, artefacts.prefix_cache)
        self.generator = generator
        self.size = (backbone.hidden_size, backbone.ffn_size)
        self._backbone, self._artefacts = backbone, artefacts
        function = get_module(
            backbone.model, f"{backbone.layer_path(layer)}.{backbone.family.activation}"
        )
        self.memories = SideMemories(Measure(settings.activation, 1.0, function))
        self._prefixes: tuple[str, ...] = ()
        self._scale: DownScale | None = None
        self._is_prepared = False  # the scale is no batch's

    @property
    def scale(self) -> DownScale:
        """Natural scale of the projection; known from `prepare` or the first batch on."""
        assert self._scale is not None
        return self._scale

    @property
    def sgd_lr(self) -> float:
        """The rate that SGD takes."""
        if self.settings.margin_unit == "absolute":
            return self.settings.edit_lr
        return self.settings.edit_lr * self.scale.residual_norm**2 / self.scale.input_power

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Scale and prefixes, through artefacts."""
        if training:
            self._is_prepared = True
            self._take_scale([each.edit.prompt for each in training[:_MAX_SCALE_PROMPTS]])
        # Noise needs them too: they stand in for it where a prompt lacks its subject.
        if self.settings.num_prefixes and self.settings.augmentation != "none":
            self._prefixes = stored_prefixes(self.site.split, self._artefacts)

    def plan_batch(self, batch: EditBatch) -> BatchPlan:
        """Choose what the batch trains on beside its edits; the plan counts the fall-backs."""
        settings, plan = self.settings, BatchPlan([], [])
        if self._scale is None:
            self._take_scale([edit.prompt for edit in batch.edits])
            count(plan.counts, "scale_from_edits")
        for edit in batch.edits:
            unrelated = sampled(edit.training_locality, settings.num_locality_rows, self.generator)
            plan.unrelated.append(unrelated)
            missing = settings.num_locality_rows - len(unrelated)
            count(plan.counts, "locality_rows_missing", missing)
            forms = augmented_prompts(
                edit, settings.augmentation, settings.num_prefixes, self._prefixes, self.generator
            )
            plan.forms.append(forms)
            is_plain = settings.augmentation in ("noise", "both") and lacks_subject(edit)
            count(plan.counts, "subject_absent", int(is_plain))
        return plan

    def rows(self, batch: EditBatch, plan: BatchPlan) -> EditRows:
        """Token rows of a batch, through the frozen layer once."""
        return EditRows(self.site, self._backbone.tokenizer, batch, plan)

    def training(self, rows: EditRows, plan: BatchPlan, terms: LossTerms) -> SideTraining:
        """The batch's edits, ready to train into the memories that the plan names."""
        return SideTraining(self.site, self._backbone.tokenizer, rows, plan, self.memories, terms)

    def optimisation(
        self, training: SideTraining, after_step: Callable[[], None] | None = None
    ) -> Optimisation:
        """Plain SGD on the deltas in training."""
        settings = OptimiserSettings(
            "sgd", self.sgd_lr, self.settings.num_steps, self.settings.stop_loss
        )
        agreed = self._backbone.micro_batch.agreed
        return Optimisation(
            training.parameters,
            PassingLoss(training.halves),
            settings,
            agreed=agreed,
            after_step=after_step,
        )

    def answer(
        self,
        prompts: PromptBatch,
        state: DecodeState | None,
        deltas: Sequence[Tensor],
        decide: Decide,
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V), each prompt through one of `deltas`; the choice stays in `state`.

        Args:
            prompts: As for a method's `logits`.
            state: As for a method's `logits`.
            deltas: One (D, F) for each memory.
            decide: Takes the route (B,) of whole prompts; -1: the original weights.
        """
        route: Tensor | None = state.route if state is not None else None

        def change(inputs: Tensor, outputs: Tensor, entering: Tensor) -> Tensor:
            nonlocal route
            if route is None:
                counted = ordinary_tokens(prompts.prompt_mask, entering, inputs)
                route = decide(inputs, outputs, prompts, counted)
            return outputs + added(inputs, deltas, route).to(outputs.dtype)

        logits, after = self.site.answer(prompts, state, change)
        if state is not None:
            after.route = route
        return logits, after

    @torch.no_grad()
    def routes(self, prompts: PromptBatch, decide: Decide) -> Tensor:
        """The choice that `answer` would make for each prompt, (B,)."""
        read = self.site.read(prompts)
        return decide(read.inputs, read.outputs, prompts, read.counted)

    @property
    def weight(self) -> Tensor:
        """The frozen projection, (D, F)."""
        path = f"{self._backbone.down_path(self.settings.edit_layer)}.weight"
        weight = self._backbone.model.get_parameter(path).detach()
        # GPT-2 stores (in, out), Llama (out, in); the family says which.
        return weight.T if self._backbone.family.is_transposed else weight

    def numbers(self) -> dict[str, float]:
        """r, A and the learning rate that follows from them."""
        return {
            "residual_norm": self.scale.residual_norm,
            "input_power": self.scale.input_power,
            "sgd_lr": self.sgd_lr,
        }

    def state(self) -> State:
        """Memories, scale and the generator."""
        state = State({"generator": self.generator.get_state()})
        state.nest("memories", self.memories.state())
        if self._scale is not None:
            state.nest("scale", self._scale.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        device = self._backbone.device
        self.memories.load(state.inner("memories"), device)
        if "scale" in state.values:
            self._set_scale(DownScale.from_state(state.inner("scale"), device))
        self.generator.set_state(state.tensors["generator"].cpu())

    def forget(self) -> None:
        """Drop all memories."""
        self.memories.deltas.clear()
        self.memories.masks.clear()
        if not self._is_prepared:
            self._scale = None  # that of edits which are forgotten

    def _take_scale(self, prompts: Sequence[str]) -> None:
        digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
        stored = self._artefacts.get(
            "down_scale",
            self._backbone.identity
            | {"layer": self.settings.edit_layer, "prompts": digest, "sink_ratio": SINK_RATIO},
            lambda: self.site.scale(prompts).state(),
        )
        self._set_scale(DownScale.from_state(stored, self._backbone.device))

    def _set_scale(self, scale: DownScale) -> None:
        self._scale = scale
        unit = 1.0 if self.settings.margin_unit == "absolute" else scale.residual_norm
        measure = self.memories.measure
        self.memories.measure = Measure(measure.rule, unit, measure.function)
