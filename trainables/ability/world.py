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
from trainables.interfaces import Backbone, EditRecord
from trainables.metrics.evaluator import BATCH_SIZE, Evaluator
from trainables.metrics.generation import Logits
from trainables.prompts import by_length, collate, labels_of, pad_id, tokenise

Item = TypeVar("Item")


class ReservedFacts:
    """Reserved facts in their trained phrasing; right is an answer with every token right."""

    name = "reserved_facts"
    is_perplexity = False

    def __init__(self, backbone: Backbone, questions: int | None) -> None:
        """Ask at most so many `questions`; None: all."""
        self.texts: dict[str, list[int]] = {}
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
    """Answers to reserved facts, asked in phrasings that no backbone was trained on, as text.

    The prompt itself is not scored: the made-up backbones learned to write answers alone.
    """

    name = "world_text"
    is_perplexity = True

    def __init__(self, backbone: Backbone, questions: int | None) -> None:
        """Read at most so many answers, `questions`; None: all."""
        self.texts: dict[str, list[int]] = {}
        rows = [row for row in made_up.probe_rows(made_up.build_world()) if row.is_held_out]
        self._rows = _mixed([row for row in rows if row.is_reserved])[:questions]
        tokens = [
            tokenise(backbone.tokenizer, row.prompt, row.answer, end=True) for row in self._rows
        ]
        pad, device = pad_id(backbone.tokenizer), backbone.device
        self._batches = [
            (members, collate([tokens[m] for m in members], pad_id=pad, device=device))
            for members in by_length(tokens, backbone.micro_batch.at_most(BATCH_SIZE))
        ]

    @torch.no_grad()
    def ask(self, logits: Logits) -> list[Answer]:
        """The mean loss of each answer and the end token behind it, nats per token."""
        found: dict[int, Answer] = {}
        for members, batch in self._batches:
            predicted = logits(batch, None)[0].float()
            losses = torch.nn.functional.cross_entropy(
                predicted, labels_of(batch), reduction="none"
            )
            each = losses.nan_to_num(nan=LARGEST_LOSS, posinf=LARGEST_LOSS).double().cpu()
            for member, own in zip(members, each.split(batch.scored_counts), strict=True):
                question = self._rows[member].prompt
                found[member] = Answer(question, float(own.mean()), float(len(own)))
        return [found[number] for number in range(len(self._rows))]


def _mixed(each: Sequence[Item]) -> list[Item]:
    """In an order that is random and always the same."""
    found = list(each)
    random.Random(0).shuffle(found)
    return found
