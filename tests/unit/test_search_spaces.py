"""The repository's own search spaces, as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.layouts.catalogue import get_layout, known_layouts
from analysis.published.paper_numbers import load
from orchestrator.planning.plan import Plan, TrialSpec, expand
from orchestrator.settings import loading as config
from orchestrator.settings.presets import read_presets
from orchestrator.settings.yaml_files import SearchSpaces
from trainables.backbones.sentences.package import asking_setting

SPACES = SearchSpaces()
COMPARE_ENCODERS = {"edit_lookup", "lemoe_sentences"}
WITHOUT_TABLE = {"smoke", "lemoe_search", "memoe_constants", "memoe_balance"} | {
    *("arm_margins", "arm_order", "edit_lookup", "grace_radius", "memoe_bypass", "memoe_gammas"),
    *("lemoe_sentences", "memoe_topk_range", "trained_editors", "wise_mask"),
}


def plan(*typed: str) -> Plan:
    return expand(config.load(typed))


@pytest.mark.parametrize("group", ["method", "backbone", "dataset", "scheduler", "family"])
def test_every_file_when_read_then_it_bears_its_own_name(group: str) -> None:
    for name in SPACES.names(group):
        assert SPACES.load(group, name)["name"] == name


@pytest.mark.parametrize("name", SPACES.names("ablation"))
def test_every_ablation_when_read_then_it_asks_and_answers_a_table_that_can_be_printed(
    name: str,
) -> None:
    assert SPACES.first_line("ablation", name) == "# @package _global_"
    assert SPACES.question(name).endswith("?")
    tables = config.load([f"ablation={name}"]).paper
    assert set(tables) <= set(known_layouts())
    assert bool(tables) != (name in WITHOUT_TABLE)


def test_every_layout_without_printed_numbers_when_listed_then_an_ablation_answers_it() -> None:
    """One with numbers of a paper shows those, whether an ablation answers it yet or not."""
    answered = {
        table
        for name in SPACES.names("ablation")
        for table in config.load([f"ablation={name}"]).paper
    }
    assert answered >= {name for name in known_layouts() if not get_layout(name).has_paper}


@pytest.mark.parametrize("scale", SPACES.names("scale"))
@pytest.mark.parametrize("name", SPACES.names("ablation"))
def test_every_ablation_when_expanded_then_it_has_trials(name: str, scale: str) -> None:
    made = plan(f"ablation={name}", f"scale={scale}")
    assert made.num_trials > 0
    assert set(SPACES.load("ablation", name)["scales"]) <= {"quick", "paper"}


@pytest.mark.parametrize("name", sorted(set(SPACES.names("ablation")) - COMPARE_ENCODERS))
def test_every_ablation_when_no_index_answers_then_needs_no_sentence_encoder(name: str) -> None:
    assert not any(asking_setting(trial.method) for trial in plan(f"ablation={name}").trials)


def test_every_arm_when_compared_then_it_differs_from_the_others_of_its_ablation() -> None:
    """An arm whose key its method does not have would run under a name that is not its own."""
    for name in SPACES.names("ablation"):
        made = plan(f"ablation={name}", "seeds=[0]")
        settings = [
            repr((trial.method, trial.backbone["name"], trial.dataset, trial.protocol))
            for trial in made.trials
        ]
        assert len(set(settings)) == len(settings), name


def arms(*typed: str) -> dict[str, TrialSpec]:
    return {trial.arm: trial for trial in plan(*typed, "seeds=[0]").trials}


@pytest.mark.parametrize(
    ("name", "base", "most"),
    [
        ("memoe_components", "full", 3),
        ("arm_components", "full", 1),
        ("arm_merging", "emr", 1),
        ("memoe_routing_input", "knowledge_anchor", 2),
    ],
)
def test_components_when_expanded_then_each_arm_changes_its_part_alone(
    name: str, base: str, most: int
) -> None:
    found = arms(f"ablation={name}")
    full = found.pop(base).method
    for arm, trial in found.items():
        if trial.method["name"] == full["name"]:
            assert 1 <= sum(trial.method[key] != full[key] for key in full) <= most, arm


def test_arm_serial_when_quick_then_few_questions_stand_for_the_published_many() -> None:
    (trial,) = [t for t in plan("ablation=arm_serial", "seeds=[0]").trials if t.arm == "arm"]
    assert trial.protocol["num_questions"] == 13
    assert trial.published["protocol.num_questions"] == [125]
    assert trial.protocol["num_edits"] == 13 * 8


def test_arm_selection_when_in_turn_then_a_question_does_not_stay_with_one_expert() -> None:
    for scale in ("quick", "paper"):
        for trial in plan("ablation=arm_selection", f"scale={scale}").trials:
            assert trial.protocol["num_questions"] % trial.method["num_experts"]


def test_memoe_grid_when_paper_then_every_published_row_has_a_trial() -> None:
    made = plan("ablation=memoe_grid", "scale=paper", "backbone=llama2_7b")
    keys = ("method.edit_layer", "method.num_experts", "method.top_k")
    run = {tuple(trial.published[key][0] for key in keys) for trial in made.trials}
    printed = {(row.layer, row.num_experts, row.top_k) for row in load("memoe_v1_table6")}
    assert printed <= run


def test_lemoe_order_when_paper_then_a_hundred_orders_of_the_same_edits() -> None:
    made = plan("ablation=lemoe_order", "scale=paper").trials
    hundred = [t for t in made if t.published["protocol.num_edits"] == [100]]
    assert {trial.protocol["order_seed"] for trial in hundred} == set(range(100))
    assert {trial.seed for trial in hundred} == {0}


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
    assert len(by_arm) == 7


def test_lemoe_lifelong_when_paper_then_each_method_has_its_published_batches() -> None:
    made = plan("ablation=lemoe_lifelong", "scale=paper", "backbone=llama2_7b")
    batches = {
        (trial.method["name"], trial.published["protocol.num_edits"][0]): trial.protocol
        for trial in made.trials
    }
    assert batches["lemoe", 1000]["num_batches"] == 5
    assert batches["grace", 100]["edit_batch_size"] == 1
    assert batches["memit_mass", 100]["num_batches"] == 1
    assert batches["rome", 1000]["edit_batch_size"] == 1
    assert batches["defer", 100]["edit_batch_size"] == 1
    assert batches["mend", 1000]["edit_batch_size"] == 1


def test_trained_editors_when_paper_then_as_their_public_codes_have_them() -> None:
    arm = [*_methods("arm_lifelong"), *_methods("arm_serial")]
    mend = [method for method in arm if method["name"] == "mend"]
    assert {tuple(method["layers"]) for method in mend} == {(29, 30, 31)}
    malmen = [method for method in arm if method["name"] == "malmen"]
    assert {tuple(method["layers"]) for method in malmen} == {tuple(range(26, 32))}
    assert {method["edits_at_once"] for method in malmen} == {1}  # of EasyEdit, which ARM names
    batch = _methods("memoe_batch", "gpt2_xl")
    (layers,) = {tuple(method["layers"]) for method in batch if method["name"] == "mend"}
    assert layers == (45, 46, 47)
    (many,) = {m["edits_at_once"] for m in _methods("trained_editors") if m["name"] == "malmen"}
    assert many == 512


def _methods(ablation: str, backbone: str = "llama2_7b") -> list[dict[str, Any]]:
    words = ("scale=paper", f"backbone={backbone}", "dataset.max_edits=null")
    return [trial.method for trial in plan(f"ablation={ablation}", *words).trials]


def test_comeba_hk_when_paper_on_gpt2_xl_then_as_its_public_code() -> None:
    for name in ("ablation=memoe_batch", "ablation=memoe_sequential"):
        made = plan(name, "scale=paper", "backbone=gpt2_xl", "dataset.max_edits=null")
        found = [trial.method for trial in made.trials if trial.method["name"] == "comeba_hk"]
        assert found
        for method in found:
            assert method["layers"] == [13, 14, 15, 16, 17]
            assert (method["v_num_steps"], method["v_weight_decay"]) == (20, 0.5)
            assert (method["clamp"], method["cov_weight"]) == (0.75, 15000.0)
            assert method["hook_threshold"] == 2.2


def test_rome_when_paper_then_as_its_row_was_made() -> None:
    lemoe, arm = "ablation=lemoe_lifelong", ("ablation=arm_lifelong", "ablation=arm_serial")
    for backbone, names in (("llama2_7b", (lemoe, *arm)), ("mistral_7b", (lemoe,))):
        for name in names:
            made = plan(name, "scale=paper", f"backbone={backbone}", "dataset.max_edits=null")
            found = [trial.method for trial in made.trials if trial.method["name"] == "rome"]
            assert found
            for method in found:
                assert (method["edit_layer"], method["covariance"]) == (5, "identity")
                assert (method["v_num_steps"], method["v_weight_decay"]) == (25, 1e-3)
    made = plan("ablation=smoke", "axes.method=[r_rome]", "scale=paper", "backbone=gpt2_xl")
    (method,) = {trial.arm: trial.method for trial in made.trials}.values()
    assert (method["edit_layer"], method["v_num_steps"], method["v_weight_decay"]) == (17, 20, 0.5)
    assert (method["covariance"], method["update_key"]) == ("text", "mean")


@pytest.mark.parametrize("path", sorted((SPACES.folder / "presets").glob("*.yaml")), ids=str)
def test_every_file_of_presets_fits_its_backbone_and_every_method_in_it(path: Path) -> None:
    backbone, _, dataset = path.stem.rpartition("_")
    assert backbone in SPACES.names("backbone")
    assert dataset in SPACES.names("dataset")
    methods = [*read_presets(str(path))]
    named = ["ablation=everyone", f"backbone={backbone}", "dataset=facts", f"presets={path}"]
    made = plan(*named, f"axes.method=[{','.join(methods)}]")
    sources = {
        spec.method["name"]: {origin.source for origin in spec.origins.values()}
        for spec in made.trials
    }
    assert sources.keys() == set(methods)
    assert all(f"presets {path}" in each for each in sources.values())
