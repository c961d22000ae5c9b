from typing import Any

import pytest
import torch

from trainables.assemblies.gece import Calibration
from trainables.methods.memoe_v2.division import Division, DivisionSettings, divided

CPU = torch.device("cpu")


def settings(**changes: Any) -> DivisionSettings:
    values: dict[str, Any] = {
        "division": "gece",
        "num_experts": 3,
        "head_share": 0.25,
        "cluster_balance_weight": 1.0,
        "cluster_scale": "log",
    }
    return DivisionSettings(**values | changes)


def calibrated() -> Calibration:
    return Calibration(
        gece=torch.tensor([10.0, 1.0, 1000.0, 100.0, 1.0], dtype=torch.float64),
        confidence=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64),
        counts={"gece_without_true_answer": 2},
        nonpositive_share=0.4,
    )


def made(seed: int = 0, **changes: Any) -> Division:
    generator = torch.Generator().manual_seed(seed)
    return divided(5, settings(**changes), calibrated, generator, CPU)


def test_divided_by_gece_then_the_lowest_is_the_head_and_g_is_its_logarithm() -> None:
    found = made()
    # floor(.25 * 5) = 1 edit in the head, the first of the two lowest; 2 and 2 in the tail
    assert found.labels.tolist() == [1, 0, 2, 2, 1]
    assert found.g.tolist() == pytest.approx([1 / 3, 0.0, 1.0, 2 / 3, 0.0])
    assert found.counts == {"gece_without_true_answer": 2, "empty_experts": 0}
    assert found.numbers == {"gece_nonpositive_products": 0.4}


def test_divided_by_confidence_then_the_surest_is_the_head_and_g_stays_gece() -> None:
    found = made(division="confidence", cluster_scale="rank")
    assert found.labels.tolist() == [0, 1, 1, 2, 2]
    # ranks 2, .5, 4, 3, .5, on a scale from the lowest to the highest
    assert found.g.tolist() == pytest.approx([1.5 / 3.5, 0.0, 1.0, 2.5 / 3.5, 0.0], rel=1e-12)


def test_divided_at_random_then_sizes_are_kept_and_the_generator_decides() -> None:
    labels = made(division="random", cluster_scale="rank").labels
    assert sorted(labels.tolist()) == [0, 1, 1, 2, 2]
    assert torch.equal(labels, made(division="random", cluster_scale="rank").labels)
    others = [made(seed, division="random", cluster_scale="rank").labels for seed in range(1, 5)]
    assert any(not torch.equal(labels, other) for other in others)


def test_divided_by_nothing_then_there_are_no_labels_and_it_is_counted() -> None:
    found = made(division="none")
    assert found.labels.tolist() == [-1] * 5
    assert found.counts["edits_without_label"] == 5
    unread = divided(5, settings(division="none"), None, torch.Generator(), CPU)
    assert unread.by_expert([0, 1, 2, 0, 1]) == {}


def test_divided_when_experts_are_more_than_edits_then_the_empty_ones_are_counted() -> None:
    # head floor(.25 * 5) = 1, four of the seven others
    assert made(num_experts=8).counts["empty_experts"] == 3


def test_by_expert_gives_the_means_of_what_each_answers() -> None:
    found = made().by_expert([0, 0, 2, 2, 2])
    assert found == pytest.approx(
        {
            "mean_gece_expert_0": 11 / 2,
            "mean_gece_expert_2": 1101 / 3,
            "mean_uncertainty_expert_0": 0.15,
            "mean_uncertainty_expert_2": 0.4,
        }
    )


def test_state_when_loaded_then_is_the_same_division() -> None:
    found = made()
    again = Division.from_state(found.state(), CPU)
    assert torch.equal(again.labels, found.labels)
    assert (again.counts, again.numbers) == (found.counts, found.numbers)
    assert again.by_expert([0] * 5) == found.by_expert([0] * 5)
