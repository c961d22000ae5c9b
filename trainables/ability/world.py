"""Tasks of the made-up world: what its backbones can do is to know it and to write about it.

Both ask about reserved facts alone, which no trial edits. Facts of all kinds are mixed, so that the
first questions are no worse a choice than any others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import torch

from trainables.ability.answers import LARGEST_LOSS, Answer
from trainables.datasets.facts import made_up
from trainables.interfaces import Backbone, EditRecord, PromptBatch
from trainables.metrics.evaluator import BATCH_SIZE, Evaluator
from trainables.metrics.generation import Logits
from trainables.prompts import by_length, collate, labels_of, pad_id, row_index, tokenise

Item = TypeVar("Item")


class ReservedFacts:
    """Reserved facts in their trained phrasing; right is an answer with every token right."""

    name = "reserved_facts"
    is_perplexity = False

    def __init__(self, backbone: Backbone, questions: int | None) -> None:
        """Ask at most so many `questions`; None: all."""
        facts = [fact for fact in made_up.build_world().facts if fact.is_reserved]
        self._facts = _mixed(facts)[:questions]
        self._evaluator = Evaluator(
            backbone.tokenizer,
            [EditRecord(fact.fact_id, fact.prompt, fact.answer) for fact in self._facts],
            batch_size=backbone.micro_batch.at_most(BATCH_SIZE),
            max_positions=backbone.max_positions,
            device=backbone.device,
        )

    def ask(self, logits: Logits) -> list[Answer]:
        """1 where every token of the answer is the model's first choice, else 0."""
        answers = self._evaluator.answers(logits, self._evaluator.select())
        found = {each.record: each.exact for each in self._evaluator.score(answers, {})}
        return [Answer(fact.fact_id, found[n]) for n, fact in enumerate(self._facts)]


class WorldText:
    """Sentences about reserved facts in phrasings that no backbone was trained on."""

    name = "world_text"
    is_perplexity = True

    def __init__(self, backbone: Backbone, questions: int | None) -> None:
        """Read at most so many sentences, `questions`; None: all."""
        rows = [row for row in made_up.probe_rows(made_up.build_world()) if row.is_held_out]
        self._rows = _mixed([row for row in rows if row.is_reserved])[:questions]
        tokens = [tokenise(backbone.tokenizer, row.prompt, row.answer) for row in self._rows]
        self._batches = []
        size = backbone.micro_batch.at_most(BATCH_SIZE)
        for members in by_length(tokens, size):
            batch = collate(
                [tokens[m] for m in members],
                pad_id=pad_id(backbone.tokenizer),
                device=backbone.device,
            )
            self._batches.append((members, _scored_throughout(batch)))

    @torch.no_grad()
    def ask(self, logits: Logits) -> list[Answer]:
        """The mean loss of each sentence, over all its tokens but the first, nats per token."""
        found: dict[int, Answer] = {}
        for members, batch in self._batches:
            predicted = logits(batch, None)[0].float()
            losses = torch.nn.functional.cross_entropy(
                predicted, labels_of(batch), reduction="none"
            ).nan_to_num(nan=LARGEST_LOSS, posinf=LARGEST_LOSS)
            rows = row_index(batch)
            sums = torch.zeros(len(members), dtype=torch.float64, device=losses.device)
            sums.index_add_(0, rows, losses.double())
            counts = torch.bincount(rows, minlength=len(members))
            for member, total, count in zip(members, sums.tolist(), counts.tolist(), strict=True):
                found[member] = Answer(self._rows[member].prompt, total / count, float(count))
        return [found[n] for n in range(len(self._rows))]


def _scored_throughout(batch: PromptBatch) -> PromptBatch:
    """The same rows, scored wherever a token of the row follows; the prompt stays the prompt."""
    host = batch.on_host
    follows = host.attention_mask.roll(-1, dims=1).bool()
    follows[:, -1] = False
    scored = (host.attention_mask.bool() & follows).to(batch.input_ids.device)
    return PromptBatch(batch.input_ids, batch.attention_mask, batch.prompt_lengths, scored)


def _mixed(each: Sequence[Item]) -> list[Item]:
    """In an order that is random and always the same."""
    found = list(each)
    random.Random(0).shuffle(found)
    return found
