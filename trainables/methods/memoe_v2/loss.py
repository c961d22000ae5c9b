"""The training loss of MEMoE v2 for one batch of edits: forward pass, router and Eq. 20 together.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors", Eq. 16-20.

Eq. 18 keeps the model near what it was, at some positions only. With `prompt` these are the
positions that predict a prompt token; with `answer` those that predict the target, where it works
against the edit; with `locality` all positions of unrelated prompts. Edit i brings the i-th of its
own unrelated prompts (counted round), and they go where the router sends them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainables.assemblies.bypass import Bypass
from trainables.errors import ConfigError
from trainables.interfaces import EditBatch, PromptBatch
from trainables.methods.memoe_v2.division import Division
from trainables.methods.memoe_v2.routing import UneditedRouting
from trainables.methods.memoe_v2.terms import (
    ConstraintSettings,
    balancing_constraint_loss,
    divergences,
    row_means,
)
from trainables.optimise import token_losses
from trainables.passing import Passing
from trainables.prompts import Row, collate, pad_id, row_index, tokenise

Positions = Literal["prompt", "answer", "locality"]


@dataclass(frozen=True)
class ConstrainedRows:
    """Token rows of a training step, and the positions where Eq. 18 keeps the model as it was.

    Attributes:
        batch: The edits.
        tokens: The batch's rows, then those of unrelated prompts; scored where anything is read.
        owner: Edit of each row, (R,).
        is_answer: Which of the M scored positions predict a target token, (M,), on the host.
        is_held: At which of them Eq. 18 keeps the model as it was, (M,), on the host.
        num_without: Edits without an unrelated prompt of their own, where one was asked for.
    """

    batch: EditBatch
    tokens: PromptBatch
    owner: Tensor
    is_answer: Tensor
    is_held: Tensor
    num_without: int = 0

    @cached_property
    def answer_at(self) -> Tensor:
        """Where `is_answer`."""
        return _places(self.is_answer, self.owner)

    @cached_property
    def held_at(self) -> Tensor:
        """Where `is_held`."""
        return _places(self.is_held, self.owner)


def constrained_rows(
    batch: EditBatch, positions: Positions | None, tokenizer: Any
) -> ConstrainedRows:
    """The rows of `batch`; `positions` says where Eq. 18 keeps the model; None: nowhere.

    Raises:
        ConfigError: If `positions` is `locality` and no edit has an unrelated prompt.
    """
    tokens, num_without = batch.tokens.on_host, 0
    device = batch.tokens.input_ids.device
    owner = torch.arange(len(batch))
    answer, held = tokens.scored, torch.zeros_like(tokens.scored)
    if positions == "answer":
        held = answer
    elif positions == "prompt":
        columns = torch.arange(held.shape[1], device=held.device)
        held = tokens.prompt_mask & (columns < tokens.prompt_ends[:, None])
    elif positions == "locality":
        tokens, owner = _with_locality(batch, tokenizer)
        num_without = 2 * len(batch) - len(owner)
        is_added = torch.arange(len(owner), device=owner.device) >= len(batch)
        answer = tokens.scored
        held = tokens.attention_mask.bool() & is_added[:, None]
    scored = answer | held
    rows = replace(tokens, scored=scored).to(device)
    at = answer[scored], held[scored]
    return ConstrainedRows(batch, rows, owner.to(device), *at, num_without)


def _places(chosen: Tensor, like: Tensor) -> Tensor:
    """Where `chosen`, which is on the host, on the device of `like`; nobody waits for it."""
    return chosen.nonzero()[:, 0].to(like.device, non_blocking=True)


def _with_locality(batch: EditBatch, tokenizer: Any) -> tuple[PromptBatch, Tensor]:
    """Rows on the host, and the edit of each."""
    host = batch.tokens.on_host
    rows = [
        Row(tuple(ids.tolist()), length)
        for ids, length in zip(host.real_ids, host.prompt_lengths.tolist(), strict=True)
    ]
    owner = list(range(len(batch)))
    for index, edit in enumerate(batch.edits):
        if edit.training_locality:
            prompt = edit.training_locality[index % len(edit.training_locality)]
            rows.append(tokenise(tokenizer, prompt))
            owner.append(index)
    if len(owner) == len(batch):
        raise ConfigError(
            "method.balance_positions is 'locality' and no edit brings an unrelated prompt; "
            "allowed with this data: prompt, answer"
        )
    tokens = collate(rows, pad_id=pad_id(tokenizer))
    # A row without a target would be scored at its last token, which predicts nothing known.
    is_edit = torch.arange(len(rows)) < len(batch)
    return replace(tokens, scored=tokens.scored & is_edit[:, None]), torch.tensor(owner)


class ConstrainedLoss:
    """Eq. 20 at the present experts and router; what does not change is computed once."""

    def __init__(
        self,
        held: ConstrainedRows,
        settings: ConstraintSettings,
        division: Division,
        bypass: Bypass,
        routing: UneditedRouting,
        *,
        forces_labels: bool,
    ) -> None:
        """Read the unedited model.

        Args:
            held: The edits and their rows.
            settings: Of the loss.
            division: Who learns what, and the scores that weigh edits.
            bypass: The experts, attached.
            routing: Trained along.
            forces_labels: The labelled expert is used whatever the router says.
        """
        self._held, self._settings, self._g = held, settings, division.g
        self._bypass, self._routing = bypass, routing
        labels, num_edits = division.labels, len(held.batch)
        self._labels = labels if bool((labels >= 0).all()) else None
        num_added = len(held.owner) - num_edits
        self._forced = pad(labels, (0, num_added), value=-1) if forces_labels else None
        self._rows = held.owner[row_index(held.tokens)]
        self._read = routing.read(held.tokens)
        self._frozen = bypass.frozen(held.tokens)
        self._target = torch.zeros_like(self._rows)
        self._target[held.answer_at] = held.batch.labels
        place = (held.is_held.cumsum(0) - 1).clamp_min(0)  # in what was before
        self._place = place.to(self._rows.device)
        self._log_before = self._before() if settings.balance_term else None

    def halves(self) -> Passing:
        """The scalar loss."""
        held, num_edits = self._held, len(self._held.batch)
        scores = self._routing.scores(self._read)
        gates = self._routing.gates(scores, self._forced)
        terms = yield self._bypass.passage(
            self._terms,
            held.tokens,
            self._frozen,
            gates,
            self._target,
            held.is_answer,
            held.is_held,
            self._place,
        )
        nll, divergence = terms[held.answer_at, 0], None
        if self._log_before is not None:
            moved = terms[held.held_at, 1]
            divergence = row_means(moved, self._rows[held.held_at], num_edits)
        log_chances = None
        if self._labels is not None:
            own = scores[:num_edits].log_softmax(-1)
            log_chances = own.gather(1, self._labels[:, None])[:, 0]
        return balancing_constraint_loss(
            self._settings,
            nll=row_means(nll, self._rows[held.answer_at], num_edits),
            divergence=divergence,
            log_chances=log_chances,
            g=self._g,
        )

    def _terms(
        self, logits: Tensor, target: Tensor, is_answer: Tensor, is_held: Tensor, place: Tensor
    ) -> Tensor:
        """Loss of each answer's token, and divergence of each held position, (m, 2)."""
        whole = self._held
        is_whole = is_answer is whole.is_answer  # not a part of the rows
        answer = whole.answer_at if is_whole else _places(is_answer, logits)
        terms = torch.zeros(len(logits), 2, device=logits.device)
        terms[answer, 0] = token_losses(logits[answer], target[answer])
        if self._log_before is not None:
            held = whole.held_at if is_whole else _places(is_held, logits)
            terms[held, 1] = divergences(logits[held], self._log_before[place[held]])
        return terms

    @torch.no_grad()
    def _before(self) -> Tensor:
        closed = torch.zeros_like(self._routing.scores(self._read))
        logits = self._bypass.per_token(lambda each: each, self._held.tokens, self._frozen, closed)
        return logits[self._held.held_at].float().log_softmax(-1)
