"""MEMOIR: a residual memory beside one FFN output projection, of which each edit has some columns.

Source: Wang et al., "MEMOIR: Lifelong Model Editing with Minimal Overwrite and Informed Retention
for LLMs" (arXiv:2506.07899). No text of the paper was at hand: the equations are those of its
public code. With a_t what enters the projection W at token t, and M of zeros and ones, a layer
gives

    W a_t + W_m (M * a_t),    W_m of the shape of W, zero at first.

1. The pattern of a prompt is the mean of a_t over its tokens, less the mean over unrelated prompts;
   its k entries of largest size name columns of W_m, by a random permutation that is drawn once.
2. An edit takes the mask M of its own prompt, and SGD trains W_m on its target, in the bare prompt
   and behind sampled prefixes, all through that mask: no other columns move.
3. A query takes the mask of that edit whose mask shares most with its own, if that is at least
   `overlap_threshold` of k; else W_m is left out, and the backbone answers as it was.

Choices where the source is silent, and deviations:
- k is a share of the width: 4,096 of LLaMA3-8B's 14,336.
- Published batches are of one edit. Those of a larger one are learned one after another, so that
  the batch size decides nothing but when edits are scored.
- The unrelated prompts are those of the part that no trial is scored on, at most 100: published are
  100 of another split. Without that part they are what the first batch's edits bring
  (`centre_from_edits`), or nothing is taken off (`uncentred`).
- Attention sinks count in no mean over tokens; see backbones/token_statistics.py.
- A query is decided on its prompt once, and keeps its mask while it decodes.
- The loss is that of the target's tokens. The public code's begins one token early, and so trains
  the prediction of the prompt's last token, too.
- The loop ends below `stop_loss`; there the loss must also have stopped to move by 1e-4.
- Decay acts on all of W_m, as in that code: also on what earlier edits wrote.
- Of edits whose prompts share a mask, the first names it in the routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import stored_prefixes
from trainables.backbones.hidden_states.down_site import DownSite
from trainables.backbones.hidden_states.token_statistics import ordinary_tokens
from trainables.backbones.layers import check_edit_layer
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
    Edit,
    EditBatch,
    EditReport,
    Generators,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.methods.memoir.apart import MemoriesApart, Own, most_apart
from trainables.methods.memoir.centre import stored_centre
from trainables.methods.memoir.masks import Masks, Pooling, through
from trainables.moe.augmentation import augmented_prompts
from trainables.moe.side_plan import BatchPlan
from trainables.moe.side_training import EditRows
from trainables.optimise import (
    Optimisation,
    OptimiserSettings,
    TargetRows,
    begun,
    row_loss,
    stored_batch,
    token_losses,
)
from trainables.prompts import batch_from, batch_state, row_index


@checked
class Config:
    """Settings of MEMOIR.

    Attributes:
        edit_layer: Decoder layer beside whose FFN output projection the memory stands, from 0.
        active_share: Share of the memory's columns that an edit has; k over the width.
        overlap_threshold: Least share of k that a query's mask has in common with an edit's.
        pooling: What a prompt's pattern is made of: the mean over its tokens, that less the mean
            over unrelated prompts, or its last token.
        num_prefixes: Sampled prefixes that an edit is trained behind, beside the bare prompt.
        edit_lr: SGD's rate.
        clip_norm: Longest gradient; a longer one is shortened.
        num_steps: Most steps of one edit.
        stop_loss: An edit is done below this loss; None: never early.
        weight_decay: Of SGD.
    """

    edit_layer: CountOrZero
    active_share: PositiveShare
    overlap_threshold: Share
    pooling: Pooling
    num_prefixes: CountOrZero
    edit_lr: Positive
    clip_norm: Positive
    num_steps: Count
    stop_loss: PositiveOrZero | None
    weight_decay: PositiveOrZero


@dataclass
class _Run:
    """A batch under way.

    Attributes:
        batch: Its edits.
        forms: Prompts that each is trained on besides its own.
        counts: Fall-backs, by name.
        num_written: Edits that are done.
        num_steps: Steps that they took.
        total_loss: Sum of their last losses.
        optimisation: Of the next one; None when all are done.
    """

    batch: EditBatch
    forms: list[list[str]]
    counts: dict[str, int] = field(default_factory=dict)
    num_written: int = 0
    num_steps: int = 0
    total_loss: float = 0.0
    optimisation: Optimisation | None = None


class Memoir:
    """One memory, a mask for each edit, and the choice of a mask for each prompt."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        check_edit_layer(config.edit_layer, backbone)
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps  # of one edit until a batch is there
        self._config, self._backbone, self._artefacts = config, backbone, artefacts
        self._site = DownSite(backbone, config.edit_layer, artefacts.prefix_cache)
        self._generator = generators.noise
        self._wide = torch.promote_types(backbone.dtype, torch.float32)
        self._masks = Masks(
            backbone.ffn_size,
            max(1, round(config.active_share * backbone.ffn_size)),
            config.pooling,
            config.overlap_threshold,
            generators.init,
            backbone.device,
        )
        self._prefixes: tuple[str, ...] = ()
        self._centre: Tensor | None = None  # of `prepare`; None: the first batch brings one
        size = (backbone.hidden_size, backbone.ffn_size)
        self._memory = torch.zeros(size, dtype=self._wide, device=backbone.device)  # W_m
        self._run: _Run | None = None
        self._apart: MemoriesApart | None = None
        self._start = self._generator.get_state()  # before the prefixes of edits side by side

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Prefixes and the mean of unrelated prompts, through artefacts."""
        if self._config.num_prefixes:
            self._prefixes = stored_prefixes(self._site.split, self._artefacts)
        prompts = dict.fromkeys(record.edit.prompt for record in training)
        if prompts and self._masks.wants_centre:
            self._centre = stored_centre(self._site, self.first_layer, self._artefacts, [*prompts])
            self._masks.centre = self._centre

    def begin(self, batch: EditBatch) -> None:
        """Draw the prefixes of all edits, and make room for the first one."""
        run = _Run(batch, self._forms(batch.edits))
        run.counts |= self._take_centre(batch.edits)
        self._begin(run)
        self._take_mask(run)
        self._set_up(run)

    def begin_each(self, batch: EditBatch) -> None:
        """Draw the prefixes of all edits, and give each a memory and a mask of its own."""
        self._start = self._generator.get_state()
        forms, each = list[list[str]](), list[Own]()
        for number in range(len(batch)):
            self._generator.set_state(self._start)  # as of a method that was built for this edit
            forms += self._forms(batch.edits[number : number + 1])
            single = batch.single(number)
            self._masks.centre = self._centre
            counts = self._take_centre(single.edits)
            each.append(Own(self._named(single.tokens), self._masks.centre, counts))
        plan = BatchPlan(forms, [[] for _ in forms])
        rows = EditRows(self._site, self._backbone.tokenizer, batch, plan)
        self._apart = MemoriesApart(batch, each, rows, self._site, self._settings(), self._clipped)
        self.num_steps = self._config.num_steps

    @property
    def most_side_by_side(self) -> int:
        """Edits at a time, by the bytes of a whole memory."""
        return most_apart(self._memory)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` SGD steps; True when every edit is learned."""
        if self._apart is not None:
            return self._apart.advance(max_steps)
        run = begun(self._run)
        while run.optimisation is not None and max_steps > 0:
            before = run.optimisation.steps_taken
            is_done = run.optimisation.advance(max_steps)
            max_steps -= run.optimisation.steps_taken - before
            if is_done:
                run.num_written += 1
                run.num_steps += run.optimisation.steps_taken
                run.total_loss += run.optimisation.last_loss or 0.0
                self._take_mask(run)
                self._set_up(run)
        return run.optimisation is None

    def finish(self) -> EditReport:
        """The report; all is written already."""
        run = begun(self._run)
        self._run = None
        return EditReport(
            num_edits=len(run.batch),
            num_steps=run.num_steps,
            final_loss=run.total_loss / len(run.batch),
            counts=run.counts,
        )

    def finish_each(self) -> list[EditReport]:
        """How each edit went; all is learned already."""
        return begun(self._apart).reports()

    def take(self, number: int) -> None:
        """Put the memory and the mask of one edit in place."""
        apart = begun(self._apart)
        own = apart.each[number]
        self._memory = apart.memory(number)
        self._masks.forget()
        self._masks.centre = own.centre
        self._masks.add(own.mask)

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V), each prompt through the mask of an edit, or without the memory."""
        if not self._masks.owners:
            return self._site.split.logits(prompts, state)
        route: Tensor | None = state.route if state is not None else None

        def change(inputs: Tensor, outputs: Tensor, entering: Tensor) -> Tensor:
            nonlocal route
            if route is None:
                counted = ordinary_tokens(prompts.prompt_mask, entering, inputs)
                route = self._masks.nearest(inputs, prompts, counted)
            return through(self._memory, self._masks.rows, route, inputs, outputs)

        logits, after = self._site.answer(prompts, state, change)
        if state is not None:
            after.route = route
        return logits, after

    @torch.no_grad()
    def routes(self, prompts: PromptBatch) -> Tensor:
        """The edit whose mask each prompt takes, (B,); -1: none."""
        if not self._masks.owners:
            return torch.full_like(prompts.prompt_lengths, -1)
        read = self._site.read(prompts)
        return self._masks.nearest(read.inputs, prompts, read.counted)

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the one that its mask is named after."""
        return list(self._masks.owners)

    def inference_bytes(self) -> int:
        """The memory, dense, and the masks."""
        return self._memory.nbytes + self._masks.rows.nbytes

    def state(self) -> State:
        """The memory, the masks and what they are made by; how far a batch is."""
        state = State({"generator": self._generator.get_state(), "memory": self._memory})
        state.nest("masks", self._masks.state())
        if self._apart is not None:
            state.tensors["generator"] = self._start
            state.nest("apart", self._apart.state())
        run = self._run
        if run is not None:
            state.nest("batch", batch_state(run.batch))
            state.values["run"] = {name: getattr(run, name) for name in _STORED}
            if run.optimisation is not None:
                state.nest("optimisation", run.optimisation.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`; `prepare` comes first."""
        device, values = self._backbone.device, dict[str, Any](state.values)
        self._generator.set_state(state.tensors["generator"].cpu())
        self._memory = state.tensors["memory"].to(device).clone()
        self._masks.load(state.inner("masks"))
        self._run = self._apart = None
        if "apart" in state.values:
            inner = state.inner("apart")
            self.begin_each(batch_from(inner.inner("batch"), device))
            begun(self._apart).resume(inner)
            return
        batch = stored_batch(state, device)
        if batch is None:
            return
        run = _Run(batch, **values["run"])
        self._begin(run)
        self._set_up(run)
        if run.optimisation is not None:
            run.optimisation.load(state.inner("optimisation"))

    def remove(self) -> None:
        """Forget all edits; the backbone itself was never changed."""
        self._memory = torch.zeros_like(self._memory)
        self._masks.forget()
        self._masks.centre = self._centre
        self._run = self._apart = None

    def _forms(self, edits: Sequence[Edit]) -> list[list[str]]:
        """Prompts that each edit is trained on besides its own."""
        count = self._config.num_prefixes
        return [
            augmented_prompts(edit, "prefix", count, self._prefixes, self._generator)
            for edit in edits
        ]

    def _take_centre(self, edits: Sequence[Edit]) -> dict[str, int]:
        """Where no centre is known, that of the edits' unrelated prompts; counts it."""
        if not self._masks.wants_centre:
            return {}
        texts = dict.fromkeys(text for edit in edits for text in edit.training_locality)
        self._masks.centre = stored_centre(self._site, self.first_layer, self._artefacts, [*texts])
        return {"centre_from_edits" if texts else "uncentred": 1}

    def _named(self, tokens: PromptBatch) -> Tensor:
        """The columns that a single prompt names, (F,) bool."""
        read = self._site.read(tokens)
        return self._masks.named(read.inputs, read.tokens, read.counted)[0]

    def _settings(self) -> OptimiserSettings:
        config = self._config
        told = config.edit_lr, config.num_steps, config.stop_loss, config.weight_decay
        return OptimiserSettings("sgd", *told)

    def _begin(self, run: _Run) -> None:
        self._run = run
        self.num_steps = self._config.num_steps * len(run.batch)

    def _take_mask(self, run: _Run) -> None:
        """Give the next edit the mask of its prompt."""
        if run.num_written < len(run.batch):
            self._masks.add(self._named(run.batch.single(run.num_written).tokens))

    def _set_up(self, run: _Run) -> None:
        """The optimisation of the next edit, whose mask is the last one."""
        run.optimisation = None
        if run.num_written == len(run.batch):
            return
        site, mask = self._site, self._masks.rows[-1]
        plan = BatchPlan([run.forms[run.num_written]], [[]])
        batch = run.batch.single(run.num_written)
        rows = EditRows(site, self._backbone.tokenizer, batch, plan)
        masked = rows.edited.inputs.to(self._wide) * mask
        scored = TargetRows.of(row_index(rows.edited.tokens))
        trained = nn.Parameter(self._memory)  # the same numbers, not a copy of them
        trained.register_hook(self._clipped)

        def loss() -> Tensor:
            shift = nn.functional.linear(masked, trained)
            output = rows.edited.layer + shift.to(rows.edited.layer.dtype)
            losses = site.per_token(token_losses, rows.edited.tokens, output, rows.labels)
            return row_loss(losses, scored)

        run.optimisation = Optimisation(
            {"memory": trained},
            loss,
            self._settings(),
            agreed=self._backbone.micro_batch.agreed,
        )

    def _clipped(self, gradient: Tensor) -> Tensor:
        """`gradient`, shortened to `clip_norm`."""
        longest = self._config.clip_norm
        return gradient * (longest / gradient.norm().clamp_min(longest))


_STORED = ("forms", "counts", "num_written", "num_steps", "total_loss")


VERSION = 3  # single edits side by side
CONFIG = Config
METHOD = Memoir
