from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan, expand
from orchestrator.settings import loading as config
from tests.unit.small_spaces import write_small_spaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")


def plan(folder: Path, *typed: str) -> Plan:
    return expand(config.load(typed, folder))


def test_expand_when_ranks_scale_to_the_width_then_equal_cells_are_one(folder: Path) -> None:
    made = plan(folder, "ablation=ranks")
    # width 128 of 4096: 16 -> .5 -> 1, 32 -> 1, 256 -> 8, 2048 -> 64; pairs (1,1) (10,1) (10,5)
    assert {trial.method["lora_rank"] for trial in made.trials} == {1, 8, 64}
    assert len(made.arms) == 3 * 3
    assert len(made) == 9 * 2  # two seeds
    assert made.excluded == 4  # (1, 5) at four published ranks
    assert made.merged == 3  # rank 32 falls on rank 16, at three pairs
    lowest = next(trial for trial in made.trials if trial.method["lora_rank"] == 1)
    assert lowest.published["method.lora_rank"] == [16, 32]
    assert lowest.swept["method.lora_rank"] == 1
    assert made.arms[0] == "lora_rank=1 num_experts=1 top_k=1"


def test_expand_when_two_arms_have_equal_settings_then_one_stands_for_both_and_a_line_says_so(
    folder: Path,
) -> None:
    (folder / "ablation" / "twins.yaml").write_text(
        "# @package _global_\n# Which?\ndefaults: [override /method: moe]\n"
        "arms: {one: {}, other: {}}\nprotocol: {num_edits: 8}\nseeds: [0, 1]\n"
    )
    made = plan(folder, "ablation=twins")
    assert made.arms == ("one",)
    assert len(made) == 2  # seeds, all of one arm
    assert "other has the settings of one here: one trial stands for both, as one" in made.notes


def test_expand_when_layers_scale_by_depth_then_halves_go_up_and_none_leaves_the_model(
    folder: Path,
) -> None:
    made = plan(folder, "ablation=methods", "seeds=[0]")
    multi = next(trial for trial in made.trials if trial.arm == "multi")
    # 16 of 32 layers: 4, 5, 6, 7, 8 -> 2, 2.5, 3, 3.5, 4 -> 2, 3, 3, 4, 4
    assert multi.method["layers"] == [2, 3, 4]
    assert multi.method["module"] == "other"
    text = (folder / "ablation/ranks.yaml").read_text().replace("[0, 30]", "[31]")
    (folder / "ablation/ranks.yaml").write_text(text)
    layers = {
        trial.method["edit_layer"] for trial in plan(folder, "ablation=ranks", "scale=paper").trials
    }
    assert layers == {15}  # 31 -> 15.5 -> 16, outside


def test_expand_when_the_backbone_is_the_published_one_then_nothing_is_scaled(folder: Path) -> None:
    made = plan(folder, "ablation=ranks", "backbone=big")
    assert {trial.method["lora_rank"] for trial in made.trials} == {16, 32, 256, 2048}
    assert made.trials[0].method["edit_layer"] == 18
    assert made.merged == 0


def test_expand_when_values_meet_then_method_preset_scale_ablation_command_line(
    folder: Path,
) -> None:
    def value(*typed: str) -> dict[str, tuple[Any, str]]:
        trial = plan(folder, "ablation=ranks", *typed).trials[0]
        return {
            key.removeprefix("method."): (trial.value(key), origin.source)
            for key, origin in trial.origins.items()
            if key.startswith("method.")
        }

    quick = value()
    assert quick["edit_layer"] == (9, "method moe")  # 18 of 32 layers
    # the preset of the paper `lemoe`, as the ablation answers lemoe_table9; not the default one
    assert quick["num_steps"] == (7, "preset tiny/lemoe")
    assert quick["stop_loss"] == (0.3, "preset tiny/lemoe")
    assert quick["edit_lr"] == (2e-4, "method moe")
    assert value("scale=paper")["stop_loss"] == (0.5, "scale paper")
    assert value("method.stop_loss=0.7")["stop_loss"] == (0.7, "command line")
    assert value("method.edit_layer=3")["edit_layer"] == (3, "command line")  # own units
    assert value("backbone=big")["num_steps"] == (50, "method moe")  # no preset there


def test_expand_when_the_ablation_sets_a_layer_then_it_is_in_published_units(folder: Path) -> None:
    path = folder / "ablation/ranks.yaml"
    path.write_text(path.read_text() + "method: {edit_layer: 30}\n")
    trial = plan(folder, "ablation=ranks").trials[0]
    assert trial.method["edit_layer"] == 15
    assert trial.origins["method.edit_layer"].published == 30


def test_expand_when_axes_are_typed_then_they_are_in_the_backbones_units(folder: Path) -> None:
    made = plan(folder, "ablation=ranks", "axes.method.lora_rank=[4,128]")
    assert {trial.method["lora_rank"] for trial in made.trials} == {4, 128}
    assert "method.lora_rank" not in made.trials[0].published


def test_expand_when_methods_are_swept_then_each_takes_its_own_values(folder: Path) -> None:
    made = plan(folder, "ablation=methods")
    assert made.arms == ("none", "multi", "moe")
    by_arm = {trial.arm: trial for trial in made.trials}
    assert by_arm["none"].method == {"name": "none", "module": "none"}
    assert by_arm["moe"].protocol["order"] == "kmeans_filled"  # its own
    assert by_arm["multi"].protocol["order"] == "given"
    assert by_arm["moe"].swept == {"method": "moe"}
    # a field of one of the methods may be typed, and reaches that one alone
    typed = {t.arm: t for t in plan(folder, "ablation=methods", "method.clamp=1.0").trials}
    assert typed["multi"].method["clamp"] == 1.0
    assert "clamp" not in typed["moe"].method


def test_expand_when_arms_are_named_then_they_cross_the_axes_and_data_limits_the_edits(
    folder: Path,
) -> None:
    made = plan(folder, "ablation=parts", "seeds=[0]")
    assert sorted(made.arms) == [
        "full num_edits=10",
        "full num_edits=60",
        "shuffled num_edits=10",
        "shuffled num_edits=60",
        "whole num_edits=10",
        "whole num_edits=60",
    ]
    by_arm = {trial.arm: trial for trial in made.trials}
    full = by_arm["full num_edits=60"]
    # the report part feeds 60 of 100; a stream of 5 batches of 20 becomes 5 of 12
    assert (full.protocol["num_edits"], full.protocol["edit_batch_size"]) == (60, 12)
    assert full.published["protocol.num_edits"] == [100]
    assert full.published["protocol.edit_batch_size"] == [20]
    assert full.swept["arm"] == "full"
    assert by_arm["shuffled num_edits=10"].protocol["order"] == "random"
    assert by_arm["whole num_edits=60"].protocol["edit_batch_size"] == 60


def test_expand_when_several_files_are_named_then_their_order_stays(
    folder: Path, tmp_path: Path
) -> None:
    names = [tmp_path / "b.json", tmp_path / "a.json"]
    for name in names:
        name.touch()
    typed = f"dataset.path=[{names[0]},{names[1]}]"
    made = plan(folder, "ablation=ranks", "dataset=from_file", "dataset.part=all", typed)
    assert made.trials[0].dataset["path"] == [str(name) for name in names]
    assert made.trials[0].dataset["part"] == "all"
    one = plan(folder, "ablation=ranks", "dataset=from_file", f"dataset.path=[{names[0]}]")
    assert one.trials[0].dataset["path"] == str(names[0])
    with pytest.raises(UsageError, match="each only once"):
        plan(folder, "ablation=ranks", "dataset=from_file", f"dataset.path=[{names[0]},{names[0]}]")


def test_expand_when_bands_are_swept_then_the_source_of_frequencies_may_be_typed(
    folder: Path,
) -> None:
    typed = ["axes.dataset.frequency_band=[null,[0,0.3]]", "dataset.frequency_source=known"]
    made = plan(folder, "ablation=ranks", *typed, "seeds=[0]")
    assert {str(trial.dataset["frequency_band"]) for trial in made.trials} == {"None", "[0, 0.3]"}


@pytest.mark.parametrize(
    ("typed", "size", "batches"),
    [
        (["protocol.kind=batch"], 50, 1),
        (["protocol.kind=batch", "protocol.num_edits=20", "protocol.num_batches=3"], 20, 3),
        (["protocol.kind=single"], 1, 50),
        ([], 1, 50),
        (["protocol.num_batches=4"], 13, 4),  # 50 / 4 = 12.5 edits, the last batch has 11
        (["protocol.edit_batch_size=20"], 20, 3),  # 20, 20, 10
    ],
)
def test_expand_when_the_protocol_leaves_a_count_open_then_the_other_gives_it(
    folder: Path, typed: list[str], size: int, batches: int
) -> None:
    protocol = plan(folder, "ablation=methods", "method=none", *typed).trials[0].protocol
    assert (protocol["edit_batch_size"], protocol["num_batches"]) == (size, batches)


SERIAL = ["protocol.kind=serial", "protocol.answers_per_question=3"]


def test_expand_when_serial_then_rounds_replace_a_methods_own_order(folder: Path) -> None:
    made = plan(folder, "ablation=methods", *SERIAL, "protocol.num_questions=10", "seeds=[0]")
    for trial in made.trials:
        assert (trial.protocol["num_edits"], trial.protocol["num_batches"]) == (30, 30)
        assert trial.protocol["order"] == "given"  # moe's own is kmeans_filled
        assert trial.origins["protocol.answers"].source.startswith("the published answers")


def test_expand_when_an_arm_is_serial_then_it_alone_bears_its_keys(folder: Path) -> None:
    (folder / "ablation" / "both.yaml").write_text(
        """# @package _global_
# Plain or serial?
defaults: [override /method: none]
arms: {plain: {protocol.kind: lifelong}, serial: {protocol.kind: serial}}
protocol: {num_edits: 24, num_questions: 100, answers_per_question: 2}
"""
    )
    by_arm = {trial.arm: trial for trial in plan(folder, "ablation=both", "seeds=[0]").trials}
    assert by_arm["plain"].protocol["num_edits"] == 24
    assert "num_questions" not in by_arm["plain"].protocol
    serial = by_arm["serial"]
    # the report part feeds 60 questions of 100; both numbers stand in the table
    assert (serial.protocol["num_questions"], serial.protocol["num_edits"]) == (60, 120)
    assert serial.published["protocol.num_questions"] == [100]
    assert serial.published["protocol.num_edits"] == [200]
    (folder / "ablation" / "both.yaml").unlink()


def test_expand_when_orders_questions_and_answers_are_axes_then_each_arm_bears_its_own(
    folder: Path,
) -> None:
    axes = ["axes.protocol.update_order=[rounds,bursts]", "axes.protocol.num_questions=[4,6]"]
    axes.append("axes.protocol.answers_per_question=[2,3]")
    words = ["ablation=methods", "method=none", "protocol.kind=serial", "seeds=[0]"]
    cells = plan(folder, *words, *axes).cells
    keys = [
        f"protocol.{axis}" for axis in ("update_order", "num_questions", "answers_per_question")
    ]
    found = [(*map(cell.swept.get, keys), cell.protocol["num_edits"]) for cell in cells]
    counts = [(4, 2, 8), (4, 3, 12), (6, 2, 12), (6, 3, 18)]  # T, P and T x P
    assert set(found) == {(order, *each) for order in ("rounds", "bursts") for each in counts}
    assert len(found) == 8
    assert "update_order=rounds num_questions=4" in cells[0].arm
    assert "update_order" not in cells[0].protocol  # as of trials from before there was the key
    where = plan(folder, *words, *axes, "where=[\"protocol.update_order == 'rounds'\"]").cells
    assert [cell.swept["protocol.update_order"] for cell in where] == ["rounds"] * 4


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (["protocol.num_questions=61", *SERIAL], ["num_questions=61", "60 questions"]),
        (
            ["protocol.num_questions=5", "protocol.num_edits=16", *SERIAL],
            ["protocol.num_edits=16", "is 15"],
        ),
        (["protocol.num_questions=5"], ["num_questions=5", "kind=serial", "kind=lifelong"]),
        (["protocol.update_order=bursts"], ["update_order=bursts", "kind=serial", "kind=lifelong"]),
        (["protocol.update_order=mixed"], ["protocol.update_order=mixed", "'rounds', 'bursts'"]),
        (
            ["protocol.order_seed=3", "protocol.num_questions=5", *SERIAL],
            ["order_seed=3", "protocol.update_order=random"],
        ),
        (["protocol.curve=true", "protocol.kind=batch"], ["protocol.curve=true", "kind=batch"]),
        (["protocol.group_sizes=[61]"], ["protocol.group_sizes=[61]", "60 edits"]),
        (["protocol.group_sizes=[1,-1]"], ["protocol.group_sizes=[1, -1]: -1: "]),
        (["protocol.answers_per_question=0"], ["protocol.answers_per_question=0"]),
    ],
)
def test_expand_when_a_streams_count_does_not_fit_then_one_line_says_so(
    folder: Path, typed: list[str], parts: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        plan(folder, "ablation=methods", "method=none", *typed)
    for part in parts:
        assert part in str(caught.value)


def test_expand_when_one_at_a_time_then_each_axis_moves_alone(folder: Path) -> None:
    made = plan(
        folder,
        "ablation=ranks",
        "plan=one_at_a_time",
        "method.num_steps=3",
        "where=[]",
        "axes={method.lora_rank:[4,8],method.num_experts:[1,5]}",
    )
    # defaults: rank 8 (256 / 32), 1 expert: both moves onto them are the default arm
    assert made.arms == ("default", "lora_rank=4", "num_experts=5")
    assert made.merged == 2
    assert all(
        set(trial.swept) == {"method.lora_rank", "method.num_experts"} for trial in made.trials
    )


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_spaces(tmp_path_factory.mktemp("search_spaces"))


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
    rates=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 999), min_size=1, max_size=3, unique=True),
)
def test_expand_when_axes_do_not_collide_then_the_length_is_their_product(
    shared_folder: Path, steps: list[int], rates: list[float], seeds: list[int]
) -> None:
    axes = json.dumps({"method.num_steps": steps, "method.edit_lr": rates}).replace('"', "")
    made = plan(shared_folder, "ablation=ranks", f"axes={axes}".replace(" ", ""), f"seeds={seeds}")
    assert len(made) == len(steps) * len(rates) * len(seeds)


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (["method.lora_rnk=4"], ["method.lora_rnk", "did you mean 'method.lora_rank'"]),
        (["axes.method.top=[4]"], ["axes.method.top", "method.top_k"]),
        (["axes.protocl.kind=[batch]"], ["axes.protocl.kind", "'protocol.kind'"]),
        (["method=none"], ["method=none: it has no method.lora_rank", "methods that have: moe"]),
        (["method.edit_layer=16"], ["method.edit_layer=16", "0 to 15"]),
        (["method.edit_layer=-1"], ["method.edit_layer=-1", "0 to 15"]),
        (["method.edit_layer=1.5"], ["method.edit_layer=1.5", "whole number"]),
        (["method.lora_rank=129"], ["method.lora_rank=129", "1 to 128"]),
        (["method.lora_rank=0"], ["method.lora_rank=0", "at least 1"]),
        (["method.num_steps=0"], ["method.num_steps=0", "at least 1"]),
        (["method.edit_lr=high"], ["method.edit_lr", "high", "number"]),
        (["method.top_k=9", "where=[]"], ["method.top_k=9", "method.num_experts=1"]),
        (
            ["method.top_k=99"],
            ["leaves none of 8 cells", "'method.top_k <= method.num_experts' leaves out 8"],
        ),
        (
            ["where=['method.top_k < method.num_expert']"],
            ["method.num_expert", "'method.num_experts'"],
        ),
        (["where=['method.top_k']"], ["compares nothing"]),
        (["where=['__import__(1) < 2']"], ["__import__(1)", "not allowed"]),
        (["protocol.num_edits=61"], ["protocol.num_edits=61", "60 edits"]),
        (["axes.protocol.num_edits=[61]"], ["protocol.num_edits=61", "60 edits"]),
        (["dataset.part=tune", "protocol.num_edits=21"], ["'tune'", "20 edits"]),
        (["dataset.part=test"], ["dataset.part=test", "tune, report, all"]),
        (["dataset.part=all", "protocol.num_edits=81"], ["'all'", "80 edits"]),
        (["dataset=from_file", "dataset.path=[]"], ["dataset.path=[]", "at least one file"]),
        (
            ["dataset=from_file", "dataset.path=[/absent.json,/gone.json]"],
            ["dataset.path=/absent.json", "no such file"],
        ),
        (["dataset.frequency_source=known"], ["frequency_source=known", "dataset.frequency_band"]),
        (["axes.dataset.frequency_source=[known,gece]"], ["without dataset.frequency_band"]),
        (["dataset=from_file"], ["dataset.path=FILE"]),
        (
            ["dataset=from_file", "dataset.path=/absent.json"],
            ["dataset.path=/absent.json", "no such file"],
        ),
        (["dataset.size=3"], ["dataset.size=3", "known:"]),
        (["backbone.dtype=int8"], ["backbone.dtype=int8", "bfloat16"]),
        (["backbone.model=/absent"], ["backbone.model=/absent", "no such folder"]),
        (["backbone.model=org/other"], ["backbone.model=org/other", "backbone=NAME"]),
        (
            ["backbone=big", "backbone.model=org/other"],
            ["needs revision", "backbone.revision=COMMIT"],
        ),
        (
            ["backbone=big", "backbone.revision=null"],
            ["needs revision", "backbone.revision=COMMIT"],
        ),
        (["protocol.edit_batch_size=4"], ["protocol.edit_batch_size=4", "protocol.num_edits=8"]),
        (["protocol.order=random"], ["protocol.order=random", "lifelong"]),
        (["scheduler.protect=[nobody]"], ["scheduler.protect=nobody"]),
        (
            ["axes.method.edit_lr={distribution:int,low:1,high:2}"],
            ["axes.method.edit_lr", "plan=search"],
        ),
    ],
)
def test_expand_when_a_value_does_not_fit_then_one_line_says_what_is_allowed(
    folder: Path, typed: list[str], parts: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        plan(folder, "ablation=ranks", *typed)
    for part in parts:
        assert part in str(caught.value)


def test_expand_when_an_arm_sets_a_typed_key_then_the_clash_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"protocol.order: the arms of ablation=parts"):
        plan(folder, "ablation=parts", "protocol.order=given")


def test_expand_when_arms_are_protected_then_by_label_or_by_method(folder: Path) -> None:
    assert plan(folder, "ablation=methods", "scheduler.protect=[none]").protected == {"none"}
    label = "lora_rank=8 num_experts=1 top_k=1"
    assert plan(folder, "ablation=ranks", f"scheduler.protect=['{label}']").protected == {label}
    assert len(plan(folder, "ablation=ranks", "scheduler.protect=[moe]").protected) == 9
