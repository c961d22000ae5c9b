"""Routing scores and the scored edits of a serial stream against slow references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.edits.stream import EditStream
from trainables.metrics import routing, scores

from . import reference_routing as reference

LENGTHS = [(1, 1), (3, 1, 2), (6, 4, 5, 2, 7, 3, 3)]
EXPERTS = [1, 2, 5]


def prompts(lengths: tuple[int, ...], num_experts: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(num_experts, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("num_experts", EXPERTS)
def test_memoe_v1_equation_13_same_and_similar_knowledge(
    lengths: tuple[int, ...], num_experts: int
) -> None:
    edits, rephrases = (prompts(lengths, num_experts, seed) for seed in (0, 1))
    for edit, rephrase in zip(edits, rephrases, strict=True):
        expected = reference.same(edit.tolist(), rephrase.tolist())
        assert routing.routing_consistency(edit, rephrase) == pytest.approx(expected, rel=1e-12)
    groups = [index % 2 for index in range(len(lengths))]
    expected = reference.similar([edit.tolist() for edit in edits], groups)
    assert routing.group_consistency(edits, groups) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("num_experts", EXPERTS)
def test_lemoe_figure_2_routing_matrix_and_its_weighted_diagonal(
    lengths: tuple[int, ...], num_experts: int
) -> None:
    trained, routed = (torch.cat(prompts(lengths, num_experts, seed)) for seed in (0, 1))
    expected = reference.matrix(trained.tolist(), routed.tolist(), num_experts)
    found = routing.routing_matrix(trained, routed, num_experts)
    assert found.tolist() == [pytest.approx(row, rel=1e-12) for row in expected]
    weights = torch.bincount(trained, minlength=num_experts) / len(trained)
    diagonal = float(found.diagonal() @ weights.double())
    assert scores.own_expert_rate(trained, routed) == pytest.approx(diagonal, abs=1e-7)


@pytest.mark.parametrize(("num_questions", "num_answers"), [(1, 2), (3, 2), (4, 8)])
def test_arm_section_4_2_scores_the_last_edit_of_every_question(
    num_questions: int, num_answers: int
) -> None:
    num_edits = num_questions * num_answers
    questions = [number % num_questions for number in range(num_edits)]
    stream = EditStream([[number] for number in range(num_edits)], questions)
    scored = reference.last_answers(num_questions, num_answers)
    assert stream.latest(num_edits) == scored
    assert stream.outdated() == [edit for edit in range(num_edits) if edit not in scored]
