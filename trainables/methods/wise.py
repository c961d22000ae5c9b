"""WISE: side memories of one FFN output projection, kept apart from the main one by a margin.

Source: Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large
Language Models" (arXiv:2405.14768), and its public code where the two differ. ARM (Serial Lifelong
Editing via Mixture of Knowledge Experts) compares with both forms of inference:

- `merge`: every `num_memories` finished memories become one, and later ones are merged into it;
- `retrieval`: they become one more stored memory, and the most activated memory answers.

The loss of an edit is its negative log-likelihood over the bare prompt and `num_prefixes` prefixed
ones, plus the margin loss that ARM prints as Eq. 5. A prompt goes to the original weights unless
some memory's activation reaches that memory's threshold; then to the most activated of those.

Where paper and public code differ there is an option; the defaults are the paper's, and the preset
`reference` of the YAML files takes the code's:

| | paper | reference |
|---|---|---|
| `activation` | linear | silu_difference |
| `hinge_mean` | all | positive |
| `threshold_ratio` | 1 | .88 |
| `merged_share` | null: all alike | .6 for what was merged before |
| `weight_decay`, `norm_bound` | 0, null | 1e-5 on all entries, 1 |

Deviations, and choices where both are silent:
- A threshold belongs to one memory: `threshold_ratio` times the smallest activation that an edited
  prompt had when its edit ended; a merged memory takes the smallest of its parts. Prompt tokens
  alone count, in training too; the code's means include targets and padding.
- Memories that wait for their merge answer by retrieval; in the code they are silent until then.
- `weight_decay` shrinks the whole side weight towards 0, entries outside the mask too
  (`decay_on: all`), as the order of mask and optimiser in the code has it; `masked` spares them.
- `merge: none` keeps all memories apart.
- Not offered: the code's rule for unrelated prompts that occur inside the edit's prompt, its rule
  of the largest token for long prompts, and replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.side_editor import SideEditor, SideRun, SideSettings
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
from trainables.moe.augmentation import Augmentation
from trainables.moe.merging import Merging, merged
from trainables.moe.side_memory import Activation, HingeMean, MarginUnit, random_masks
from trainables.moe.side_plan import BatchPlan
from trainables.moe.side_training import LossTerms
from trainables.moe.thresholds import just_below
from trainables.optimise import BatchRun, begun, stored_batch

Inference = Literal["merge", "retrieval"]
Merge = Literal["none", "ties", "linear", "slerp", "dare_ties", "sign"]
DecayOn = Literal["all", "masked"]


@checked
class Config:
    """Settings of WISE.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection is copied, from 0.
        inference: What finished memories become; see the module's docstring.
        num_memories: k, memories that are merged into one.
        edits_per_memory: Edits after which a new memory begins.
        mask_ratio: rho, share of the projection's entries that a memory trains.
        merge: How memories become one; `none`: never.
        merge_density: Share of entries kept by TIES and DARE-TIES, (0, 1].
        merged_share: Weight of what was merged before; None: as much as each new memory.
        activation: The measured difference of outputs.
        margin_unit: Unit of margins and rate; see assemblies/side_editor.py.
        margin_far: alpha.
        margin_edit: beta.
        margin_gap: gamma.
        margin_weight: Weight of the margin loss beside the edit's likelihood.
        hinge_mean: Mean over all rows, or over those above zero.
        threshold_ratio: Of the smallest activation of an edited prompt.
        augmentation: Further forms of an edit's prompt; the paper has prefixes.
        num_prefixes: So many further forms.
        num_locality_rows: Unrelated prompts for each edit.
        edit_lr: SGD's rate, in the margins' unit.
        num_steps: Most steps per batch of edits.
        stop_loss: A batch is done below this loss; None: never early.
        weight_decay: Share of the side weight that one step takes away, times the rate.
        decay_on: Entries that decay acts on.
        norm_bound: Half width of the box around the original weight; None: no box.
    """

    edit_layer: int
    inference: Inference
    num_memories: Count
    edits_per_memory: Count
    mask_ratio: PositiveShare
    merge: Merge
    merge_density: PositiveShare
    merged_share: Share | None
    activation: Activation
    margin_unit: MarginUnit
    margin_far: PositiveOrZero
    margin_edit: PositiveOrZero
    margin_gap: PositiveOrZero
    margin_weight: PositiveOrZero
    hinge_mean: HingeMean
    threshold_ratio: PositiveOrZero
    augmentation: Augmentation
    num_prefixes: CountOrZero
    num_locality_rows: CountOrZero
    edit_lr: Positive
    num_steps: Count
    stop_loss: float | None
    weight_decay: PositiveOrZero
    decay_on: DecayOn
    norm_bound: Positive | None


class Wise:
    """Side memories: stored ones first, those that wait for a merge, and the current one last."""

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
        self._forget()

    def _forget(self) -> None:
        self._editor.forget()
        self._owners: list[int] = []  # of each edit, the memory that holds it now
        self._least: list[float] = []  # of each memory, the smallest activation of its edits
        self._num_merged = 0  # memories that came of a merge; they stand first
        self._edits_in_current = 0
        self.run: SideRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Scale and prefixes of the pristine backbone, through artefacts."""
        self._editor.prepare(training)

    def begin(self, batch: EditBatch) -> None:
        """Open a memory if there is none to write to, and set up SGD on it."""
        plan = self._editor.plan_batch(batch)
        if not self._edits_in_current:
            (mask,) = random_masks(1, self._editor.size, self._config.mask_ratio, self._generator)
            self._editor.memories.add(mask.to(self._backbone.device))
            self._least.append(float("inf"))
        plan.owners.extend([len(self._least) - 1] * len(batch))
        self._start(batch, plan)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` SGD steps; True when the batch is done."""
        return begun(self.run).work.advance(max_steps)

    @torch.no_grad()
    def finish(self) -> EditReport:
        """Write the memory and its threshold; close it, and merge, when they are full."""
        run = begun(self.run)
        run.training.commit()
        own, far = run.rows.activations(self._editor.memories)
        self._least[-1] = min(self._least[-1], float(own[:, -1].min()))
        self._owners += run.plan.owners
        self._edits_in_current += len(run.work.batch)
        if self._edits_in_current >= self._config.edits_per_memory:
            self._edits_in_current = 0
            self._merge_when_full()
        self.run = None
        return run.report(
            self._editor.numbers()
            | {
                "edit_activation": float(own[:, -1].mean()),
                "far_activation": float(far[:, -1].mean()),
                "abstain_threshold": min(self._thresholds()),
            }
        )

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) with each prompt's memory; the choice stays in `state`."""
        if not self._owners:
            return self._editor.site.split.logits(prompts, state)
        return self._editor.answer(prompts, state, self._editor.memories.deltas, self._route)

    def routes(self, prompts: PromptBatch) -> Tensor:
        """The memory that answers each prompt, (B,); -1: the original weights."""
        if not self._owners:
            return torch.full_like(prompts.prompt_lengths, -1)
        return self._editor.routes(prompts, self._route)

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the memory that holds it now, merges included."""
        return list(self._owners)

    def inference_bytes(self) -> int:
        """The memories, dense."""
        return sum(delta.nbytes for delta in self._editor.memories.deltas)

    def state(self) -> State:
        """Memories, thresholds and scale; what a batch under way drew and trains too."""
        state = State(
            {"generator_init": self._generator.get_state()},
            {
                "owners": list(self._owners),
                "least": [None if value == float("inf") else value for value in self._least],
                "num_merged": self._num_merged,
                "edits_in_current": self._edits_in_current,
            },
        )
        state.nest("editor", self._editor.state())
        if self.run is not None:
            self.run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._forget()
        values: dict[str, Any] = dict(state.values)
        self._editor.load(state.inner("editor"))
        self._owners = list(values["owners"])
        self._least = [float("inf") if value is None else value for value in values["least"]]
        self._num_merged = int(values["num_merged"])
        self._edits_in_current = int(values["edits_in_current"])
        batch = stored_batch(state, self._backbone.device)
        if batch is not None:
            self._start(batch, BatchPlan.from_json(values["plan"])).resume(state)
        self._generator.set_state(state.tensors["generator_init"].cpu())

    def remove(self) -> None:
        """Forget all memories; the backbone itself was never changed."""
        self._forget()

    def _start(self, batch: EditBatch, plan: BatchPlan) -> SideRun:
        editor, config = self._editor, self._config
        rows = editor.rows(batch, plan)
        terms = LossTerms(editor.settings.margins, config.margin_weight, average=config.hinge_mean)
        training = editor.training(rows, plan, terms)

        @torch.no_grad()
        def constrain() -> None:
            (delta,) = training.parameters.values()
            if config.weight_decay:
                decay = editor.sgd_lr * config.weight_decay * (editor.weight + delta)
                if config.decay_on == "masked":
                    decay = decay * editor.memories.masks[-1]
                delta.sub_(decay)
            if config.norm_bound is not None:
                delta.clamp_(-config.norm_bound, config.norm_bound)

        work = BatchRun(batch, editor.optimisation(training, constrain))
        self.run = SideRun(work, plan, rows, training)
        return self.run

    def _merge_when_full(self) -> None:
        """Merge the closed memories into one when there are `num_memories` of them."""
        config, memories = self._config, self._editor.memories
        first = self._num_merged
        if config.merge == "none" or len(memories) - first < config.num_memories:
            return
        weights = None
        if config.inference == "merge" and first:
            first = 0  # the earlier merge takes part
            if config.merged_share is not None:
                rest = (1 - config.merged_share) / config.num_memories
                weights = [config.merged_share] + [rest] * config.num_memories
        rule: Merging = config.merge
        delta = merged(
            memories.deltas[first:],
            rule,
            density=config.merge_density,
            generator=self._generator,
            weights=weights,
        )
        memories.deltas[first:] = [delta]
        memories.masks[first:] = [torch.zeros_like(memories.masks[-1])]
        self._least[first:] = [min(self._least[first:])]
        self._owners = [min(owner, first) for owner in self._owners]
        self._num_merged = first + 1

    def _thresholds(self) -> list[float]:
        """Least activation at which each memory answers."""
        ratio, dtype = self._config.threshold_ratio, self._backbone.dtype
        return [ratio * just_below(least, dtype) for least in self._least]

    @torch.no_grad()
    def _route(
        self, inputs: Tensor, outputs: Tensor, prompts: PromptBatch, counted: Tensor
    ) -> Tensor:
        """The most activated memory of those above their thresholds, or -1, (B,)."""
        activations = self._editor.memories.activations(inputs, outputs, counted)
        is_known = activations >= activations.new_tensor(self._thresholds())
        best = torch.where(is_known, activations, -1.0).argmax(1)
        return torch.where(is_known.any(1), best, -1)


VERSION = 5  # in bfloat16 the edit that set a threshold reaches it
CONFIG = Config
METHOD = Wise
