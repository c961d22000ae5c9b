"""GRACE: a codebook of activations beside one FFN output projection; no weight changes.

Source: Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value
Adaptors" (arXiv:2211.11031). LEMoE (arXiv:2406.20030v1), Appendix B.2, runs it with learning rate
1, 100 iterations, initial radius 1 and replacement of the last token only; both MEMoE papers (v1
Appendix D, v2 Appendix C.2) with the same, as far as they say.

A key is what enters the projection at the last prompt token; its value takes the place of what
leaves the projection whenever a query lies within the key's radius. `codebook.py` has the rule
by which an edit adds, splits or expands an entry; then Adam trains the value of that entry on the
edit's target tokens.

Deviations, and choices where the paper is silent:
- A new value starts uniform in [0, 1) (`cold`, published) or as the projection's output (`warm`).
- `skip_correct` follows the paper, which edits only what the model gets wrong; an edit that is
  already right, all target tokens under teacher forcing, costs no entry.
- Edits of a batch are applied one after the other, as the rule needs. Those whose entries do not
  meet are trained at the same time: Adam acts on each value alone and the loss is a sum, so the
  result is that of a loop over edits. `num_steps` counts the steps of one edit.
- While generating, the query is made at the end of the prompt and the value is placed there;
  nothing is looked up while decoding. With a cache this equals replacing it at every step.
- Edits that are each rolled back (`single`) are trained in the same way, each for a codebook of its
  own.
- No early stop; the option is not implemented in the published code either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.layers import check_edit_layer
from trainables.backbones.surgery import get_module
from trainables.field_kinds import Count, Positive, checked
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
from trainables.methods.grace.codebook import Codebook, OnEqualKey, same_key
from trainables.methods.grace.rows import COUNTERS, Apart, Run, Wave, all_right, at, replaced
from trainables.optimise import (
    Optimisation,
    OptimiserSettings,
    TargetRows,
    begun,
    row_means,
    stored_batch,
    token_losses,
)
from trainables.prompts import batch_from, batch_state, row_index


@checked
class Config:
    """Settings of GRACE.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection is watched, from 0.
        edit_lr: Adam's learning rate.
        num_steps: Steps that train the value of one edit.
        deferral_radius: Radius of a new key, epsilon in the paper; in units of the activations.
        replacement: Positions that receive the value: the last prompt token, or all before it.
        value_init: Start of a new value; see the module's docstring.
        skip_correct: Leave out edits that the model already answers rightly.
        on_equal_key: What a prompt does that comes again with another target: split, as the rule
            says and with the effect that neither target answers, or overwrite its entry.
    """

    edit_layer: int
    edit_lr: Positive
    num_steps: Count
    deferral_radius: Positive
    replacement: Literal["replace_last", "replace_prompt"]
    value_init: Literal["cold", "warm"]
    skip_correct: bool
    on_equal_key: OnEqualKey


_MOST_SIDE_BY_SIDE = 32  # as many rows as a batch has


class Grace:
    """Replaces the output of one projection for prompts near an edited one."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        check_edit_layer(config.edit_layer, backbone)
        self.first_layer = config.edit_layer
        self.num_steps = config.num_steps
        self._config = config
        self._split = Split(backbone, config.edit_layer, artefacts.prefix_cache)
        path = backbone.down_path(config.edit_layer)
        self._site = Site(backbone, config.edit_layer, path, artefacts.prefix_cache)
        self._down = get_module(backbone.model, path)
        self._generator = generators.init
        self.codebook = self._empty()
        self._owners: list[int] = []  # of each edit, the entry that learned it; -1: none had to
        self._run: Run | None = None
        self._apart: Apart | None = None
        self.most_side_by_side = _MOST_SIDE_BY_SIDE

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing to build."""

    def begin(self, batch: EditBatch) -> None:
        """Read the keys of the batch and make room for its first edits."""
        self._run = self._read(batch)
        self._start_wave(self._run)

    def begin_each(self, batch: EditBatch) -> None:
        """Read the keys of the batch, and give each edit a codebook of its own."""
        run, start = self._read(batch), self._generator.get_state()
        codebooks, changes, values = list[Codebook](), list[str](), list[Tensor]()
        for row in range(len(batch)):
            own = self._empty()
            codebooks.append(own)
            if self._config.skip_correct and run.is_right[row]:
                changes.append("already_right")
                continue
            self._generator.set_state(start)  # as of a method that was built for this edit
            told = run.keys[row], self._label(batch, row), self._config.deferral_radius
            changes.append(own.change_for(*told)[0])
            own.insert(*told, partial(self._start, run, row))
            run.rows.append(row)
            values.append(own.values[0])
        run.wave = self._wave(run, torch.stack(values)) if run.rows else None
        self._apart = Apart(run, codebooks, changes, start)

    def finish_each(self) -> list[EditReport]:
        """What each edit did to its codebook."""
        return begun(self._apart).reports()

    def take(self, number: int) -> None:
        """Put the codebook of one edit in place."""
        apart = begun(self._apart)
        self.codebook, self._owners = apart.codebooks[number], [-1]
        if apart.run.wave is not None and number in apart.run.rows:
            place = apart.run.rows.index(number)
            self.codebook.values[0] = apart.run.wave.values[place].detach()
            self._owners = [0]

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` Adam steps; True when every edit has its steps."""
        if self._apart is not None:
            wave = self._apart.run.wave
            return wave is None or wave.optimisation.advance(max_steps)
        run = begun(self._run)
        while run.wave is not None:
            optimisation = run.wave.optimisation
            before = optimisation.steps_taken
            is_done = optimisation.advance(max_steps)
            max_steps -= optimisation.steps_taken - before
            self.codebook.values[run.wave.entries] = run.wave.values.detach()
            if not is_done:
                return False
            run.num_trained += len(run.rows)
            run.num_steps += optimisation.steps_taken
            run.total_loss += optimisation.last_loss or 0.0
            self._start_wave(run)
        return True

    def finish(self) -> EditReport:
        """The entries are in the codebook already; says what they did to it."""
        run = begun(self._run)
        self._owners += run.owners
        self._run = None
        return EditReport(
            num_edits=len(run.batch),
            num_steps=run.num_steps,
            final_loss=run.total_loss / run.num_trained if run.num_trained else None,
            counts=run.counts,
        )

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) with the values in place; the entry is chosen once per prompt."""
        if state is not None and state.route is not None:
            return self._split.logits(prompts, state)
        chosen = torch.full((len(prompts.input_ids),), -1, device=prompts.input_ids.device)
        positions, ends = self._positions(prompts), prompts.prompt_ends

        def answer(inputs: Tensor, output: Tensor) -> Tensor:
            nonlocal chosen
            chosen = self.codebook.lookup(at(inputs, ends))
            values = self.codebook.values[chosen.clamp_min(0)]
            return replaced(output, positions & (chosen >= 0)[:, None], values)

        if not len(self.codebook):
            logits, after = self._split.logits(prompts, state)
        else:
            with self._watched(answer):
                logits, after = self._split.logits(prompts, state)
        if state is not None:
            after.route = chosen
        return logits, after

    @torch.no_grad()
    def routes(self, prompts: PromptBatch) -> Tensor:
        """The entry that answers each prompt, (B,); -1: none. The layers above are not run."""
        if not len(self.codebook):
            return torch.full_like(prompts.prompt_lengths, -1)
        inputs, _ = self._site.frozen(prompts)
        return self.codebook.lookup(at(inputs, prompts.prompt_ends))

    def trained_routes(self) -> list[int]:
        """For each edit so far, in order, the entry that learned it.

        Of an edit that was answered rightly before, what answered it: an entry, or -1 for none.
        """
        return list(self._owners)

    def state(self) -> State:
        """The codebook and the generator; the batch and its optimiser when one is under way."""
        state = State({"generator": self._generator.get_state()}, {"owners": list(self._owners)})
        state.nest("codebook", self.codebook.state())
        run = self._run
        if run is not None:
            state.nest("batch", batch_state(run.batch))
            state.values["run"] = {name: getattr(run, name) for name in COUNTERS}
            if run.wave is not None:
                state.nest("optimisation", run.wave.optimisation.state())
        if self._apart is not None:
            state.nest("apart", self._apart.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._generator.set_state(state.tensors["generator"].cpu())
        self.codebook.load(state.inner("codebook"))
        owners: Any = state.values["owners"]
        self._owners = list(owners)
        self._run = None
        if "apart" in state.values:
            self._load_apart(state.inner("apart"))
        batch = stored_batch(state, self._split.backbone.device)
        if batch is None:
            return
        run = self._read(batch)
        stored: Any = state.values["run"]
        run.next_row, run.num_trained, run.num_steps = (
            int(stored[name]) for name in ("next_row", "num_trained", "num_steps")
        )
        run.rows, run.entries = list(stored["rows"]), list(stored["entries"])
        run.owners = list(stored["owners"])
        run.counts, run.total_loss = dict(stored["counts"]), float(stored["total_loss"])
        if "optimisation" in state.values:
            run.wave = self._wave(run, self.codebook.values[run.entries])
            run.wave.optimisation.load(state.inner("optimisation"))
        self._run = run

    def remove(self) -> None:
        """Forget all entries; the backbone itself was never changed."""
        self.codebook = self._empty()
        self._owners = []
        self._run = self._apart = None

    @torch.no_grad()
    def _load_apart(self, state: State) -> None:
        self._generator.set_state(state.tensors["start"].cpu())
        self.begin_each(batch_from(state.inner("batch"), self._split.backbone.device))
        wave = begun(self._apart).run.wave
        if wave is not None:
            wave.values.copy_(state.tensors["values"])
            wave.optimisation.load(state.inner("optimisation"))
            wave.losses.copy_(state.tensors["losses"])

    def _empty(self) -> Codebook:
        backbone = self._split.backbone
        told = backbone.ffn_size, backbone.hidden_size, backbone.device, self._config.on_equal_key
        return Codebook(*told, same_key(backbone.dtype))

    @torch.no_grad()
    def _read(self, batch: EditBatch) -> Run:
        """One forward without the codebook: keys, outputs, and what is right already.

        Keys do not depend on the codebook: it acts behind the place where they are read.
        """
        tokens, ends = batch.tokens, batch.tokens.prompt_ends
        inputs, output = self._site.frozen(tokens)
        own = self._down(inputs)
        said = self._site.per_token(lambda logits: logits.argmax(-1), tokens, output)
        is_right = all_right(said, batch.labels, row_index(tokens))
        return Run(batch, output, own, at(inputs, ends).float(), at(own, ends).float(), is_right)

    def _start_wave(self, run: Run) -> None:
        """Insert the next edits, up to the first that meets an entry still to be trained."""
        radius = self._config.deferral_radius
        run.rows, run.entries = [], []
        while run.next_row < len(run.batch):
            row = run.next_row
            key, label = run.keys[row], self._label(run.batch, row)
            covering = int(self.codebook.lookup(key[None])[0])
            change, nearest, _ = self.codebook.change_for(key, label, radius)
            trains_again = nearest if change in ("expanded", "overwritten") else -1
            if {covering, trains_again} & set(run.entries):
                break
            run.next_row += 1
            if self._config.skip_correct and self._is_right(run, row, covering):
                run.counts["already_right"] = run.counts.get("already_right", 0) + 1
                run.owners.append(covering)
                continue
            _, entry = self.codebook.insert(key, label, radius, partial(self._start, run, row))
            run.counts[change] = run.counts.get(change, 0) + 1
            run.rows.append(row)
            run.entries.append(entry)
            run.owners.append(entry)
        run.wave = self._wave(run, self.codebook.values[run.entries]) if run.rows else None

    def _wave(self, run: Run, start: Tensor) -> Wave:
        """Adam on the values of this wave, (len(rows), D)."""
        rows = torch.tensor(run.rows, device=run.output.device)
        tokens, output, own = run.batch.tokens.rows(rows), run.output[rows], run.own[rows]
        labels = run.batch.labels[torch.isin(row_index(run.batch.tokens), rows)]
        positions, scored_rows = self._positions(tokens), TargetRows.of(row_index(tokens))
        entries = torch.tensor(run.entries, device=run.output.device)
        values = nn.Parameter(start.clone())
        last = torch.zeros(len(rows), device=values.device)
        tail = None
        if self._config.replacement == "replace_last":
            tail = self._site.tail(tokens, output, tokens.on_host.prompt_ends)

        def loss() -> Tensor:
            changed = output + (replaced(own, positions, values) - own)
            losses = self._site.per_token(token_losses, tokens, changed, labels, tail=tail)
            means = row_means(losses, scored_rows)
            last.copy_(means.detach())
            # A sum: each value gets the gradient that it would get alone.
            return means.sum()

        settings = OptimiserSettings("adam", self._config.edit_lr, self._config.num_steps)
        agreed = self._split.backbone.micro_batch.agreed
        optimisation = Optimisation(
            {"values": values}, loss, settings, agreed=agreed, num_losses=len(run.rows)
        )
        return Wave(entries, values, optimisation, last)

    @torch.no_grad()
    def _is_right(self, run: Run, row: int, covering: int) -> bool:
        """Whether the model, codebook included, already gives the target of `row`."""
        if covering < 0:
            return run.is_right[row]
        index = torch.tensor([row], device=run.output.device)
        tokens = run.batch.tokens.rows(index)
        labels = run.batch.labels[row_index(run.batch.tokens) == row]
        logits, _ = self.logits(tokens)
        return all_right(logits.argmax(-1), labels, row_index(tokens))[0]

    def _start(self, run: Run, row: int) -> Tensor:
        if self._config.value_init == "warm":
            return run.outputs[row]
        value = torch.rand(run.outputs.shape[1], generator=self._generator)
        return value.to(run.outputs.device)

    def _label(self, batch: EditBatch, row: int) -> tuple[int, ...]:
        return tuple(batch.labels[row_index(batch.tokens) == row].tolist())

    def _positions(self, prompts: PromptBatch) -> Tensor:
        """Where a value goes, (B, T) bool."""
        columns = torch.arange(prompts.input_ids.shape[1], device=prompts.input_ids.device)
        ends = prompts.prompt_ends[:, None]
        if self._config.replacement == "replace_last":
            return columns == ends
        return prompts.prompt_mask & (columns < ends)

    @contextmanager
    def _watched(self, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
        """Within the block the projection returns `change(its input, its output)`."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return change(inputs[0], output)

        # A hook for the length of one call leaves nothing in the backbone to restore.
        handle = self._down.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


VERSION = 8  # an expanded radius, and equal keys in half precision, hold in any batch
CONFIG = Config
METHOD = Grace
