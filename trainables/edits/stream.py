"""Puts the records that a trial drew into batches, in the order of their editing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.draws.ordering import (
    between_batch_similarity,
    plan_batches,
    within_batch_similarity,
)
from trainables.draws.update_order import serial_batches
from trainables.edits.drawing import Drawn
from trainables.edits.sources import Source
from trainables.errors import ConfigError
from trainables.interfaces import Backbone
from trainables.prompts import tokenise
from trainables.records import EditRecord
from trainables.seeding import derived_seed
from trainables.spec import ProtocolSpec, TrialSpec

Reads: TypeAlias = Callable[[Sequence[str]], NDArray[np.floating]]  # prompts -> (N, D)
_NOT_CLUSTERED = ("given", "random")  # orders that read no embedding


@dataclass(frozen=True)
class EditStream:
    """Batches of record indices in the order of their editing, and what is known beforehand.

    Attributes:
        batches: Every record in one batch.
        questions: For each record the number of its question; None: each asks its own.
        numbers: What belongs in the trial's row.
        groups: Group of similar knowledge of each record, asked for where experts are compared.
        not_told_apart: Records of older answers that say nothing of what a model answers now.
    """

    batches: Sequence[Sequence[int]]
    questions: Sequence[int] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    groups: Callable[[], Sequence[int]] | None = None
    not_told_apart: frozenset[int] = frozenset()

    @property
    def order(self) -> list[int]:
        """Records in the order of their editing."""
        return [index for batch in self.batches for index in batch]

    def question(self, record: int) -> int:
        """Number of the question that `record` answers."""
        return record if self.questions is None else self.questions[record]

    def latest(self, edits_seen: int) -> list[int]:
        """The newest record of each question among the first edits: the answers that then count."""
        newest = {self.question(record): record for record in self.order[:edits_seen]}
        return list(newest.values())

    def earlier(self) -> dict[int, tuple[int, ...]]:
        """For each record those that its question was edited to before, in their order."""
        found, asked = dict[int, tuple[int, ...]](), dict[int, tuple[int, ...]]()
        for record in self.order:
            found[record] = asked.get(self.question(record), ())
            asked[self.question(record)] = (*found[record], record)
        return found

    def old_answers(self, records: Sequence[EditRecord]) -> dict[int, list[str]]:
        """For each record the true answer, where it is known, and what it was edited to before."""
        found = {}
        for record, earlier in self.earlier().items():
            true, edited = records[record].true_answer, [records[i].target_new for i in earlier]
            found[record] = [true, *edited] if true else edited
        return found

    def outdated(self) -> list[int]:
        """Records whose question is answered anew by a later one, as far as that can be told."""
        order = self.order
        others = {*self.latest(len(order)), *self.not_told_apart}
        return [record for record in order if record not in others]


def edit_stream(
    spec: TrialSpec,
    backbone: Backbone,
    drawn: Drawn,
    source: Source,
    knowledge: Mapping[str, float] | None = None,
    read: Reads | None = None,
) -> EditStream:
    """The batches of a trial, with the similarities within and between them.

    `knowledge` are numbers for its row: what the backbone knew of the data before. `read` as in
    `edit_batches`.
    """
    batches = edit_batches(spec, backbone, drawn, read)
    numbers = {f"count.{name}": float(count) for name, count in drawn.counts.items()}
    numbers |= knowledge or {}
    if not spec.protocol.is_rolled_back:
        numbers |= _similarities(backbone, drawn.records, batches)

    def groups() -> list[int]:
        return [source.group_of[record.prompt] for record in drawn.records]

    return EditStream(batches, drawn.questions, numbers, groups, drawn.not_told_apart)


def edit_batches(
    spec: TrialSpec, backbone: Backbone, drawn: Drawn, read: Reads | None = None
) -> list[list[int]]:
    """Indices of the records in the order in which they are edited.

    Clustering reads the mean input embedding of the prompt's tokens: what a router sees at
    inference too. (LEMoE, Eq. 7 joins prompt and target for its similarities; at inference there
    is no target.) A method whose router reads prompts otherwise has them clustered by that: `read`.
    No batch of a serial stream holds two answers of one question.

    Raises:
        ConfigError: If the batch size or the order does not fit.
    """
    protocol, order = spec.protocol, spec.protocol.order or "given"
    num_edits, size = len(drawn.records) // protocol.num_rounds, _batch_size(protocol)
    if size > num_edits:
        raise ConfigError(f"protocol.edit_batch_size is {size}; it must lie in [1, {num_edits}]")
    if protocol.is_rolled_back:
        order = "given"  # independent batches: their sequence changes nothing
    own_seed = spec.seed if protocol.order_seed is None else protocol.order_seed
    seed = derived_seed(own_seed, "order") % 2**32
    if protocol.kind == "serial":
        return serial_batches(
            num_edits,
            protocol.num_rounds,
            size,
            order=order,
            update_order=protocol.update_order,
            seed=seed,
        )
    prompts = [record.prompt for record in drawn.records]
    embeddings: NDArray[np.floating]
    if read is None or order in _NOT_CLUSTERED:
        embeddings = _mean_embeddings(backbone, [(prompt, "") for prompt in prompts])
    else:
        embeddings = read(prompts)
    planned = plan_batches(embeddings, order=order, seed=seed, edit_batch_size=size)
    return [[int(index) for index in batch] for batch in planned]


def _batch_size(protocol: ProtocolSpec) -> int:
    if protocol.is_rolled_back:
        return 1 if protocol.kind == "single" else protocol.num_edits
    return protocol.edit_batch_size or 1


def _similarities(
    backbone: Backbone, records: Sequence[EditRecord], batches: Sequence[Sequence[int]]
) -> dict[str, float]:
    """WBS (mean over batches of several edits) and BBS of LEMoE, Eq. 7 and 8."""
    embeddings = _mean_embeddings(
        backbone, [(record.prompt, record.target_new) for record in records]
    )
    cut = [np.array(batch) for batch in batches]
    numbers = {}
    if any(len(batch) > 1 for batch in cut):
        within = within_batch_similarity(embeddings, cut)
        numbers["within_batch_similarity"] = float(np.nanmean(within))
    if len(cut) > 1:
        numbers["between_batch_similarity"] = between_batch_similarity(embeddings, cut)
    return numbers


def _mean_embeddings(backbone: Backbone, texts: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """Mean input embedding of the tokens of each prompt, or of prompt and target, (N, D)."""
    table = backbone.embedding.weight.detach()
    means = [
        table[torch.tensor(tokenise(backbone.tokenizer, prompt, target).ids)].float().mean(0)
        for prompt, target in texts
    ]
    return torch.stack(means).cpu().numpy().astype(np.float64)
