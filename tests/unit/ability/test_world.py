"""Tasks of the made-up world, asked of logits that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.conftest import VOCABULARY
from trainables.ability.answers import score
from trainables.ability.world import ReservedFacts, WorldText
from trainables.datasets.facts import made_up
from trainables.interfaces import Backbone, DecodeState, PromptBatch
from trainables.prompts import labels_of, tokenise


def uniform(prompts: PromptBatch, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
    return torch.zeros(len(prompts.scored_at[0]), VOCABULARY), DecodeState()


def knowing(prompts: PromptBatch, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
    """Gives the right token half of the probability, and the others the rest."""
    logits = torch.zeros(len(prompts.scored_at[0]), VOCABULARY)
    logits.scatter_(1, labels_of(prompts)[:, None], math.log(VOCABULARY - 1))
    return logits, DecodeState()


def ruined(prompts: PromptBatch, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
    return torch.full((len(prompts.scored_at[0]), VOCABULARY), math.nan), DecodeState()


def test_world_text_when_all_tokens_are_as_likely_then_perplexity_is_their_number(
    llama: Backbone,
) -> None:
    task = WorldText(llama, 20)
    assert score(task.ask(uniform), is_perplexity=True) == pytest.approx(VOCABULARY)
    assert score(task.ask(knowing), is_perplexity=True) == pytest.approx(2.0)


def test_world_text_counts_the_tokens_of_the_answers_and_their_ends_alone(llama: Backbone) -> None:
    answers = WorldText(llama, 5).ask(uniform)
    rows = {row.prompt: row.answer for row in made_up.probe_rows(made_up.build_world())}
    assert len(answers) == 5
    for each in answers:
        target = tokenise(llama.tokenizer, each.question, rows[each.question]).target
        assert each.weight == len(target) + 1


def test_world_text_when_a_model_is_ruined_then_perplexity_stays_a_number(llama: Backbone) -> None:
    assert score(WorldText(llama, 3).ask(ruined), is_perplexity=True) == pytest.approx(1e30)


def test_reserved_facts_are_right_only_when_every_token_is(llama: Backbone) -> None:
    task = ReservedFacts(llama, 12)
    assert [answer.value for answer in task.ask(knowing)] == [1.0] * 12
    assert score(task.ask(uniform), is_perplexity=False) == 0.0


def test_questions_are_of_facts_that_no_trial_edits(llama: Backbone) -> None:
    world = made_up.build_world()
    edited = {record.record_id for record in made_up.records(world, "all")}
    asked = {answer.question for answer in ReservedFacts(llama, None).ask(uniform)}
    assert len(asked) == sum(fact.is_reserved for fact in world.facts)
    assert not asked & edited
    of_edited = {f.fact_id for f in world.facts if f.fact_id in edited}
    rows = {row.prompt: row.fact_id for row in made_up.probe_rows(world)}
    texts = {rows[answer.question] for answer in WorldText(llama, None).ask(uniform)}
    assert of_edited
    assert not texts & of_edited


def test_fewer_questions_are_the_first_of_all(llama: Backbone) -> None:
    few, all_of_them = (ReservedFacts(llama, count).ask(uniform) for count in (7, None))
    assert few == all_of_them[:7]
