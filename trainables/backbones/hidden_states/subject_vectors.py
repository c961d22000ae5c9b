"""Finds vectors that, added at the subjects' last tokens, make the backbone say the targets.

Source: the vector step of ROME (Meng et al., arXiv:2202.05262), in the form of MEMIT (Meng et al.,
arXiv:2210.07229). For each edit, a vector delta is added to the hidden state h leaving one layer
at the last token of the subject; its loss is

    mean over contexts of the target's negative log-likelihood per token
    + kl_weight * KL(now || before) at one position of "{subject} is a"
    + v_weight_decay * |delta| / |h|^2,

and after each step delta is shrunk to |delta| <= clamp * |h|, with h the state of the bare prompt.
An edit whose loss is below `stop_loss` is not moved any more. The published code divides the norm,
not its square, by |h|^2; its KL has the distribution before as reference, as here. ROME itself
adds delta to the FFN's output v, which is the same place, but has |v| instead of |h|: `base`.

The position of the KL term is `last`, the end of that prompt, as ROME's text has it (its term
against "essence drift": what follows the prompt), or `subject`, the subject's last token, which the
published codes of ROME and MEMIT read.

All vectors are found together: an edit's loss contains its own vector only, and Adam acts by
element, so the result is that of one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import PerToken, Split
from trainables.backbones.forward.tail import Tail
from trainables.backbones.hidden_states.covariance import states_above, watched_keys
from trainables.backbones.hidden_states.subject_rows import SubjectRows
from trainables.interfaces import Backbone, PromptBatch, State
from trainables.prompts import labels_of, row_index


@dataclass(frozen=True)
class VectorSettings:
    """Weights and bounds of the loss in the module's docstring."""

    v_weight_decay: float
    stop_loss: float
    clamp: float
    kl_weight: float


@dataclass(frozen=True)
class _Part:
    """Some rows: their tokens, states behind the layer, edits, and where vectors are added.

    The tail of a row begins at its subject's last token.
    """

    tokens: PromptBatch
    hidden: Tensor
    tail: Tail | None
    owner: Tensor
    place: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Moving:
    """What the loss reads of the edits that still move; the same until another one settles.

    Attributes:
        part: Their rows.
        labels: Token that each of their M scored positions should predict.
        is_prompt: Which positions are not of the KL term, (M,), on the host.
        kept: Row of the KL term of each other position, on the host.
        kept_of_others: The same of those alone.
        prompts: Where `is_prompt`.
        prompt_rows: The rows of those positions.
        others: Where not `is_prompt`.
        owners: The edits of those positions.
    """

    part: _Part
    labels: Tensor
    is_prompt: Tensor
    kept: Tensor
    kept_of_others: Tensor
    prompts: Tensor
    prompt_rows: Tensor
    others: Tensor
    owners: Tensor


class SubjectVectors:
    """The vectors of one batch, behind one layer of a backbone whose weights do not move.

    Attributes:
        rows: The edits.
        base: What |delta| counts beside, (N, D) float32.
        delta: The vectors, (N, D) float32.
        losses: Of each edit when it was last moved, or asked; (N,).
        steps: Updates of each vector.
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: int,
        rows: SubjectRows,
        settings: VectorSettings,
        base: Tensor | None = None,
    ) -> None:
        """Start at zero; reads the hidden states behind `layer` and the distributions to keep.

        Args:
            backbone: Whose weights do not move as long as these vectors do.
            layer: Decoder layer whose output they are added to.
            rows: The edits.
            settings: Of the loss.
            base: (N, D) float32, beside whose norms |delta| counts; None: h.
        """
        self.rows = rows
        self._settings = settings
        self._above = Split(backbone, layer + 1, PrefixCache(0.0), has_batch_state=False)
        self._labels = labels_of(rows.tokens)
        # What settles decides which rows run: found on the host, which waits once in a step.
        self._owner, self._scored_rows = rows.owner.cpu(), row_index(rows.tokens.on_host)
        self._settled = [False] * rows.num_edits
        self._moving: _Moving | None = None
        device = backbone.device
        with torch.no_grad():
            self._hidden = states_above(backbone, layer, rows.tokens)
            self._tail = self._above.tail(rows.tokens, self._hidden, rows.starts)
            states = rows.at_subjects(self._hidden)[: rows.num_edits].float()
            self.base = states if base is None else base
            self.delta = nn.Parameter(torch.zeros_like(self.base))
            self._held = self.delta.detach().clone()
            self._is_settled = torch.zeros(rows.num_edits, dtype=torch.bool, device=device)
            self.losses = torch.zeros(rows.num_edits, device=device)
            self.steps = [0] * rows.num_edits
            kl_rows = torch.arange(len(rows.owner)) >= rows.num_prompts
            self._before: Tensor | None = None  # (KL rows, V) log-probabilities
            if bool(kl_rows.any()):
                self._before = self._per_token(_log_probabilities, self._part(kl_rows))

    def loss(self) -> Tensor:
        """Sum of the losses of the edits that still move, after settling those below `stop_loss`.

        A sum gives each vector the gradient that it would get alone; 0 when all are settled.
        """
        self._held = self.delta.detach().clone()
        rows, num_edits = self.rows, self.rows.num_edits
        moving = self._moving = self._moving or self._of_moving()
        terms = self._per_token(
            self._terms, moving.part, moving.labels, moving.is_prompt, moving.kept
        )
        per_row = _means(terms[moving.prompts], moving.prompt_rows, rows.num_prompts)
        losses = per_row.view(-1, num_edits).mean(0)
        if self._before is not None:
            drift = self._settings.kl_weight * terms[moving.others]
            losses = losses.index_add(0, moving.owners, drift)
        decay = self.delta.norm(dim=1) / self.base.norm(dim=1) ** 2
        losses = losses + self._settings.v_weight_decay * decay
        was_moving = ~self._is_settled
        agreed = self._above.backbone.micro_batch.agreed(losses.detach())
        self.losses = torch.where(was_moving, agreed, self.losses)
        self._is_settled = self._is_settled | (self.losses < self._settings.stop_loss)
        self._note_settled()
        unsettled = [index for index, settled in enumerate(self._settled) if not settled]
        total: Tensor = losses[_beside(torch.tensor(unsettled, dtype=torch.long), losses)].sum()
        return total

    @torch.no_grad()
    def project(self) -> None:
        """Shrink long vectors onto their ball and undo what momentum did to settled ones."""
        limits = self._settings.clamp * self.base.norm(dim=1)
        norms = self.delta.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        self.delta.mul_((limits / norms).clamp_max(1.0)[:, None])
        self.delta.copy_(torch.where(self._is_settled[:, None], self._held, self.delta))
        self.steps = [
            steps + (not settled) for steps, settled in zip(self.steps, self._settled, strict=True)
        ]

    def is_settled(self, edit: int) -> bool:
        """Whether an edit's vector does not move any more, as its loss was low."""
        return self._settled[edit]

    def state(self) -> State:
        """The vectors; everything else follows from the batch and the weights."""
        return State(
            {
                "delta": self.delta.detach(),
                "is_settled": self._is_settled,
                "losses": self.losses,
            },
            {"steps": list(self.steps)},
        )

    def load(self, state: State) -> None:
        """Continue from `state`."""
        with torch.no_grad():
            self.delta.copy_(state.tensors["delta"])
        self._is_settled = state.tensors["is_settled"].to(self.delta.device).clone()
        self.losses = state.tensors["losses"].to(self.delta.device).clone()
        steps: Any = state.values["steps"]
        self.steps = list(steps)
        self._note_settled()

    def _note_settled(self) -> None:
        settled = self._is_settled.tolist()
        if settled != self._settled:
            self._settled, self._moving = settled, None

    def _of_moving(self) -> _Moving:
        rows = self.rows
        chosen = ~torch.tensor(self._settled)[self._owner]  # the others' rows need no forward
        kept = chosen[self._scored_rows].nonzero()[:, 0]
        scored_rows = self._scored_rows[kept]
        is_prompt = scored_rows < rows.num_prompts
        prompts, others = is_prompt.nonzero()[:, 0], (~is_prompt).nonzero()[:, 0]
        kl_rows = (scored_rows - rows.num_prompts).clamp_min(0)
        found = (
            kl_rows[others],
            prompts,
            scored_rows[prompts],
            others,
            self._owner[scored_rows[others]],
        )
        there = (_beside(each, self._labels) for each in found)
        labels = self._labels[_beside(kept, self._labels)]
        return _Moving(self._part(chosen), labels, is_prompt, kl_rows, *there)

    def _part(self, chosen: Tensor) -> _Part:
        """The `chosen` rows, (R,) on the host."""
        rows = self.rows
        there = chosen.nonzero()[:, 0]
        index = _beside(there, self._hidden)
        numbers = torch.arange(len(index), device=index.device)
        if len(index) == len(chosen):  # without a second copy of all states
            place = (numbers, rows.columns)
            return _Part(rows.tokens, self._hidden, self._tail, rows.owner, place)
        place = (numbers, rows.columns[index])
        tail = None if self._tail is None else self._tail.rows(there)
        return _Part(rows.tokens.rows(there), self._hidden[index], tail, rows.owner[index], place)

    def _terms(self, logits: Tensor, labels: Tensor, is_prompt: Tensor, kept: Tensor) -> Tensor:
        """For each position the loss of its label, or how far its distribution has drifted."""
        if self._moving is not None and is_prompt is self._moving.is_prompt:
            prompts, others = self._moving.prompts, self._moving.others
            kept = self._moving.kept_of_others
        else:  # a part of the rows
            prompts, others = is_prompt.nonzero()[:, 0], (~is_prompt).nonzero()[:, 0]
            kept = _beside(kept[others], logits)
            prompts, others = _beside(prompts, logits), _beside(others, logits)
        log_probs = _log_probabilities(logits)
        terms = log_probs.new_zeros(len(log_probs))
        terms[prompts] = -log_probs[prompts].gather(1, labels[prompts, None])[:, 0]
        if self._before is not None:
            now, before = log_probs[others], self._before[kept]
            terms[others] = (now.exp() * (now - before)).sum(-1)
        return terms

    def _per_token(self, function: PerToken, part: _Part, *held: Tensor) -> Tensor:
        """`Split.per_token` over some rows, with their vectors added."""
        shift = self.delta[part.owner].to(part.hidden.dtype)
        shifted: Tensor = part.hidden.index_put(part.place, shift, accumulate=True)
        return self._above.per_token(function, part.tokens, *held, hidden=shifted, tail=part.tail)


def keys_and_states(
    backbone: Backbone, rows: SubjectRows, layer: int, last: int
) -> tuple[Tensor, Tensor]:
    """What the present weights make of the subjects.

    Returns:
        Keys (N, F), float32: input of the output projection of `layer`; the mean of the bare prompt
        and of the mean over its contexts, as published, so that the bare prompt weighs half.
        States (N, D), float32: output of layer `last` for the bare prompt.
    """
    by_context, states = keys_by_context(backbone, rows, layer, last)
    keys = by_context[0]
    if len(by_context) > 1:
        keys = (keys + by_context[1:].mean(0)) / 2
    return keys, states


@torch.no_grad()
def keys_by_context(
    backbone: Backbone, rows: SubjectRows, layer: int, last: int
) -> tuple[Tensor, Tensor]:
    """As `keys_and_states`, with the keys of each context, (1 + contexts, N, F), the bare first."""
    seen: list[Tensor] = []

    def note(_: int, keys: Tensor) -> None:  # of one micro-batch
        seen.append(rows.at_subjects(keys, first=sum(map(len, seen))))

    with watched_keys(backbone, [layer], note):
        states = states_above(backbone, last, rows.prompts())
    by_context = torch.cat(seen).float().view(-1, rows.num_edits, backbone.ffn_size)
    return by_context, rows.at_subjects(states)[: rows.num_edits].float()


def _beside(index: Tensor, like: Tensor) -> Tensor:
    """What was found on the host, on the device of `like`; nobody waits for the copy."""
    return index.to(like.device, non_blocking=True)


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)


def _means(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Mean of `values` in each group; 0 where a group is empty."""
    sums = values.new_zeros(num_groups).index_add(0, groups, values)
    # Not bincount: on a GPU the host would wait for it.
    counts = groups.new_zeros(num_groups).index_add(0, groups, torch.ones_like(groups))
    means: Tensor = sums / counts.clamp_min(1)
    return means
