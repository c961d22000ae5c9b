"""The repository's own search spaces, as they stand."""

from __future__ import annotations

import pytest

from orchestrator import config
from orchestrator.plan import Plan, expand
from orchestrator.spaces import REPOSITORY, SearchSpaces

SPACES = SearchSpaces()


def plan(*typed: str) -> Plan:
    return expand(config.load(typed))


@pytest.mark.parametrize("group", ["method", "backbone", "dataset", "scheduler"])
def test_every_file_when_read_then_it_bears_its_own_name(group: str) -> None:
    for name in SPACES.names(group):
        assert SPACES.load(group, name)["name"] == name


@pytest.mark.parametrize("name", SPACES.names("ablation"))
def test_every_ablation_when_read_then_it_asks_and_names_a_table_that_is_there(name: str) -> None:
    assert SPACES.question(name).endswith("?")
    paper = SPACES.load("ablation", name).get("paper")
    assert paper is None or (REPOSITORY / "analysis/paper_tables" / f"{paper}.csv").is_file()


@pytest.mark.parametrize("scale", SPACES.names("scale"))
@pytest.mark.parametrize("name", SPACES.names("ablation"))
def test_every_ablation_when_expanded_then_it_has_trials(name: str, scale: str) -> None:
    assert plan(f"ablation={name}", f"scale={scale}").num_trials > 0


def test_lemoe_lora_when_on_the_embedded_backbone_then_the_grid_is_896() -> None:
    made = plan("ablation=lemoe_lora", "scale=paper")
    # 16 layers x (1 + 3 + 4) pairs of experts and top-k x 7 ranks; 11 published ranks, of which
    # 2, 4, 8, 16 and 32 of 4,096 are one of 128
    assert len(made) == 16 * 8 * 7
    lowest = next(trial for trial in made.trials if trial.method["lora_rank"] == 1)
    assert lowest.published["method.lora_rank"] == [2, 4, 8, 16, 32]
    assert len(plan("ablation=lemoe_lora", "scale=paper", "backbone=llama2_7b")) == 16 * 8 * 11


def test_lemoe_lora_when_quick_then_every_axis_has_three_values() -> None:
    made = plan("ablation=lemoe_lora")
    assert len(made.arms) >= 24
    assert made.config.seeds == (0, 1)
    for key in made.swept:
        assert len({trial.swept[key] for trial in made.trials}) == 3
    assert {trial.method["num_experts"] for trial in made.trials} == {1, 10, 20}


def test_lemoe_components_when_expanded_then_each_arm_changes_one_thing() -> None:
    made = plan("ablation=lemoe_components", "seeds=[0]")
    by_arm = {trial.arm: {**trial.method, **trial.protocol} for trial in made.trials}
    full = by_arm.pop("full")
    for values in by_arm.values():
        assert sum(values[key] != full[key] for key in full) == 1
    assert len(by_arm) == 6


def test_lemoe_lifelong_when_paper_then_each_method_has_its_published_batches() -> None:
    made = plan("ablation=lemoe_lifelong", "scale=paper", "backbone=llama2_7b")
    batches = {
        (trial.method["name"], trial.published["protocol.num_edits"][0]): trial.protocol
        for trial in made.trials
    }
    assert batches["lemoe", 1000]["num_batches"] == 5
    assert batches["grace", 100]["edit_batch_size"] == 1
    assert batches["memit", 100]["num_batches"] == 1
