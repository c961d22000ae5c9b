"""Trains one batch of edits into side memories; the frozen part of the layer runs once.

Sources: WISE (arXiv:2405.14768) and ARM (Serial Lifelong Editing via Mixture of Knowledge Experts),
Section 3.2: L = NLL of the edit + margin_weight * (L_mar + L_mem).

Deviations, and choices where the papers are silent:
- ARM prints L = L_mar + L_mem, without the edit's own likelihood. That sum never moves: it depends
  on D_i by norms alone, whose subgradient at D_i = 0 is zero, and no target is in it. WISE adds
  the likelihood, and so does this.
- Several unrelated prompts for each edit (the papers: one): the margin and the score S of a single
  one are too noisy to repeat a choice of expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.interfaces import EditBatch, PromptBatch, State
from trainables.moe.side_memory import (
    HingeMean,
    Margins,
    SideMemories,
    margin_loss,
    memory_loss,
    shifted,
)
from trainables.moe.side_plan import BatchPlan
from trainables.optimise import TargetRows, row_loss, token_losses
from trainables.passing import Passage, Passing, UnderWay
from trainables.prompts import Row, collate, labels_of, pad_id, row_index, tokenise


class Read(Protocol):
    """What the frozen layer makes of some prompts."""

    @property
    def tokens(self) -> PromptBatch:
        """The rows."""
        ...

    @property
    def inputs(self) -> Tensor:
        """a_t, what enters the output projection, (B, T, F)."""
        ...

    @property
    def outputs(self) -> Tensor:
        """W_org a_t, what leaves it, (B, T, D)."""
        ...

    @property
    def layer(self) -> Tensor:
        """What leaves the layer, (B, T, D)."""
        ...

    @property
    def counted(self) -> Tensor:
        """Prompt tokens that count in an activation, (B, T) bool."""
        ...


class Layer(Protocol):
    """The layer that is edited, with everything above it."""

    def read(self, prompts: PromptBatch) -> Read:
        """The frozen layer's part."""
        ...

    def passage(
        self,
        function: Callable[..., Tensor],
        prompts: PromptBatch,
        output: Tensor,
        *held: Tensor,
    ) -> Passage:
        """The way to `function(logits, *held)` at the scored positions, from the layer on."""
        ...


@dataclass(frozen=True)
class LossTerms:
    """Which terms the loss has, and how they weigh.

    Attributes:
        margins: In the unit of the memories' activations.
        margin_weight: Weight of L_mar and L_mem beside the likelihood, which weighs 1.
        has_margin: Whether L_mar is part of it.
        has_likelihood: Whether the targets' likelihood is.
        average: How hinges are averaged.
    """

    margins: Margins
    margin_weight: float
    has_margin: bool = True
    has_likelihood: bool = True
    average: HingeMean = "all"


class EditRows:
    """Token rows of a batch and what the frozen layer makes of them.

    Attributes:
        edited: Each edit as it is, then the further forms of each; with targets.
        edit_of_row: Edit of each of those rows, (R,).
        labels: Target tokens of those rows, (M,).
        unrelated: The unrelated prompts of all edits; None when there is none.
        edit_of_unrelated: Edit of each of those, (U,).
    """

    def __init__(self, layer: Layer, tokenizer: Any, batch: EditBatch, plan: BatchPlan) -> None:
        """Tokenise, and run the layer once."""
        device = batch.tokens.input_ids.device
        end = tokenizer.eos_token_id  # None: no target is closed by one
        rows = [_row_of(batch.tokens, index) for index in range(len(batch))]
        edits = list(range(len(batch)))
        for index, forms in enumerate(plan.forms):
            is_closed = rows[index].ids[-1] == end
            target = batch.edits[index].target_new
            rows += [tokenise(tokenizer, form, target, end=is_closed) for form in forms]
            edits += [index] * len(forms)
        tokens = collate(rows, pad_id=pad_id(tokenizer), device=device)
        self.edited = layer.read(tokens)
        self.edit_of_row = torch.tensor(edits, device=device)
        self.labels = labels_of(tokens)
        pairs = [(edit, text) for edit, some in enumerate(plan.unrelated) for text in some]
        self.unrelated = read_prompts(layer, tokenizer, [text for _, text in pairs], device)
        self.edit_of_unrelated = torch.tensor(
            [edit for edit, _ in pairs], device=device, dtype=torch.long
        )

    def activations(self, memories: SideMemories) -> tuple[Tensor, Tensor]:
        """delta_i of each edit's own prompt and its mean over the edit's unrelated prompts, (B, E).

        An edit without unrelated prompts has 0 there.
        """
        num_edits = int(self.edit_of_row.max()) + 1
        first = slice(0, num_edits)  # the edits as they are come first
        edited, unrelated = self.edited, self.unrelated
        own = memories.activations(
            edited.inputs[first], edited.outputs[first], edited.counted[first]
        )
        if unrelated is None:
            return own, torch.zeros_like(own)
        far = memories.activations(unrelated.inputs, unrelated.outputs, unrelated.counted)
        sums = torch.zeros_like(own).index_add(0, self.edit_of_unrelated, far)
        counts = torch.bincount(self.edit_of_unrelated, minlength=num_edits)
        return own, sums / counts.clamp_min(1)[:, None]


class SideTraining:
    """Trains copies of the deltas that the batch's edits were given to.

    The memories themselves change in `commit` alone.
    """

    def __init__(
        self,
        layer: Layer,
        tokenizer: Any,
        rows: EditRows,
        plan: BatchPlan,
        memories: SideMemories,
        terms: LossTerms,
    ) -> None:
        """Copy the deltas of the plan's owners and read its remembered prompts."""
        self._layer, self._rows, self._memories, self._terms = layer, rows, memories, terms
        device = rows.edit_of_row.device
        owner = torch.tensor(plan.owners, device=device)
        self.row_owners = owner[rows.edit_of_row]  # (R,)
        names = sorted(set(plan.owners))
        self._edited_by = _rows_of(names, self.row_owners)
        self._unrelated_by = _rows_of(names, owner[rows.edit_of_unrelated])
        self._scored_rows = TargetRows.of(row_index(rows.edited.tokens))
        same = rows.edit_of_row[:, None] == rows.edit_of_unrelated[None]
        self._pairs = same.nonzero()[:, 0], same.nonzero()[:, 1]
        self.parameters: dict[str, nn.Parameter] = {}
        for index in names:
            parameter = nn.Parameter(memories.deltas[index].clone())
            # The gradient is masked, not the delta: decay may act on every entry.
            parameter.register_hook(lambda grad, mask=memories.masks[index]: grad * mask)
            self.parameters[str(index)] = parameter
        texts = [item.prompt for item in plan.remembered]
        self._remembered = read_prompts(layer, tokenizer, texts, device)
        if self._remembered is not None:
            holders = torch.tensor([item.owner for item in plan.remembered], device=device)
            self._held = self._by_owner(self._remembered, holders)
            against = owner[[item.edit for item in plan.remembered]]
            self._remembered_by = _rows_of(names, against)

    def loss(self) -> Tensor:
        """Likelihood of the targets, and the terms that `LossTerms` names."""
        return UnderWay(self.halves()).alone()

    def halves(self) -> Passing:
        """The same, around the pass through the layers above."""
        rows, terms = self._rows, self._terms
        shift = self._shift(rows.edited, self._edited_by)
        loss = 0.0 * shift.sum()
        if terms.has_likelihood:
            output = rows.edited.layer + shift.to(rows.edited.layer.dtype)
            losses = yield self._layer.passage(
                token_losses, rows.edited.tokens, output, rows.labels
            )
            loss = row_loss(losses, self._scored_rows)
        if terms.has_margin:
            loss = loss + terms.margin_weight * self._margin(shift)
        if self._remembered is not None:
            trained = self._shift(self._remembered, self._remembered_by)
            activation = self._activation(self._remembered, trained)
            behind = memory_loss(self._held, activation, terms.margins.gap)
            loss = loss + terms.margin_weight * behind
        return loss

    @torch.no_grad()
    def commit(self) -> None:
        """Write the trained deltas into the memories."""
        for name, parameter in self.parameters.items():
            self._memories.deltas[int(name)] = parameter.detach().clone()

    def state(self) -> State:
        """The deltas in training."""
        return State({name: value.detach() for name, value in self.parameters.items()})

    def load(self, state: State) -> None:
        """Continue from `state`."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state.tensors[name])

    def _margin(self, shift: Tensor) -> Tensor:
        rows, terms = self._rows, self._terms
        edited = self._activation(rows.edited, shift)
        far = edited.new_zeros(0)
        if rows.unrelated is not None:
            unrelated = self._shift(rows.unrelated, self._unrelated_by)
            far = self._activation(rows.unrelated, unrelated)
        return margin_loss(edited, far, self._pairs, terms.margins, terms.average)

    @torch.no_grad()
    def _by_owner(self, read: Read, holders: Tensor) -> Tensor:
        """delta_j(x_m) of the memory j that holds each prompt, as it now is, (M,)."""
        each = self._memories.activations(read.inputs, read.outputs, read.counted)
        return each.gather(1, holders[:, None])[:, 0]

    def _activation(self, read: Read, shift: Tensor) -> Tensor:
        return self._memories.measure.activations(shift, read.outputs, read.counted)

    def _shift(self, read: Read, rows_by: dict[str, Tensor]) -> Tensor:
        """D a_t of each row by the memory that trains it, (B, T, D) float32."""
        if len(self.parameters) == 1:
            (delta,) = self.parameters.values()
            return shifted(read.inputs, delta)
        total = read.inputs.new_zeros(*read.inputs.shape[:2], read.layer.shape[-1]).float()
        for name, delta in self.parameters.items():
            rows = rows_by[name]
            total = total.index_add(0, rows, shifted(read.inputs[rows], delta))
        return total


def read_prompts(
    layer: Layer, tokenizer: Any, texts: Sequence[str], device: torch.device
) -> Read | None:
    """What the frozen layer makes of prompts without a target; None when there is none."""
    if not texts:
        return None
    rows = [tokenise(tokenizer, text) for text in texts]
    return layer.read(collate(rows, pad_id=pad_id(tokenizer), device=device))


def last_inputs(read: Read) -> Tensor:
    """a_t at the last prompt token of each row, (B, F) float32."""
    return at_ends(read.inputs, read.tokens)


def at_ends(states: Tensor, prompts: PromptBatch) -> Tensor:
    """States (B, T, ...) at the last prompt token of each row, float32."""
    rows = torch.arange(len(states), device=states.device)
    return states[rows, prompts.prompt_ends].float()


def _rows_of(names: Sequence[int], owners: Tensor) -> dict[str, Tensor]:
    """The rows of each memory, by its name; found once, because the host waits for them."""
    return {str(name): (owners == name).nonzero()[:, 0] for name in names}


def _row_of(tokens: PromptBatch, index: int) -> Row:
    ids = tokens.input_ids[index][tokens.attention_mask[index].bool()]
    return Row(tuple(ids.tolist()), int(tokens.prompt_lengths[index]))
