"""What holds for a method on one backbone, and for one arm of several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan, TrialSpec, expand
from orchestrator.settings import loading as config
from tests.unit.small_spaces import write_small_spaces

OF_BACKBONE = "presets: {moe: {edit_lr: 3.0e-3, num_steps: 9}, multi: {layers: [1]}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_small_spaces(tmp_path / "search_spaces")
    (made / "backbone" / "tiny.yaml").write_text(
        "name: tiny\nmodel: 'embedded:tiny'\nrevision: null\ndtype: float32\nfamily: llama\n"
        f"num_layers: 16\nhidden_size: 128\nffn_size: 352\nmemory_gib: 0.5\n{OF_BACKBONE}"
    )
    (made / "backbone" / "like.yaml").write_text(
        "{name: like, base: tiny, num_layers: 8, presets: {moe: {num_steps: 10}}}"
    )
    return made


def plan(folder: Path, *typed: str) -> Plan:
    return expand(config.load(typed, folder))


def by_arm(folder: Path, *typed: str) -> dict[str, TrialSpec]:
    return {trial.arm: trial for trial in plan(folder, *typed, "seeds=[0]").trials}


def moe(folder: Path, *typed: str) -> TrialSpec:
    return by_arm(folder, "ablation=methods", *typed)["moe"]


def told(trial: TrialSpec, key: str) -> tuple[object, str]:
    return trial.value(f"method.{key}"), trial.origins[f"method.{key}"].source


def refusal(folder: Path, *typed: str) -> str:
    with pytest.raises(UsageError) as refused:
        plan(folder, *typed)
    return str(refused.value)


def test_plan_when_a_backbone_carries_presets_then_they_hold_above_the_published_ones(
    folder: Path,
) -> None:
    own = moe(folder)
    assert told(own, "edit_lr") == (3e-3, "preset tiny")  # the method's file says 5e-3 for tiny
    assert told(own, "num_steps") == (9, "preset tiny")
    assert told(own, "edit_layer") == (9, "method moe")  # 18 of 32 layers, scaled
    assert "presets" not in own.backbone
    like = moe(folder, "backbone=like")
    assert told(like, "edit_lr") == (3e-3, "preset tiny")
    assert told(like, "num_steps") == (10, "preset like")
    assert by_arm(folder, "ablation=methods")["multi"].method["layers"] == [1]  # its own units
    assert told(moe(folder, "method.num_steps=3"), "num_steps") == (3, "command line")
    assert told(moe(folder, "scale=paper"), "stop_loss") == (0.5, "scale paper")


def test_plan_when_a_file_of_presets_is_typed_then_it_holds_above_the_backbones(
    folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("moe: {edit_lr: 1e-2, edit_layer: 3, stop_loss: 0.2}\n")
    made = moe(folder, f"presets={mine}")
    assert told(made, "edit_lr") == (1e-2, f"presets {mine}")
    assert told(made, "edit_layer") == (3, f"presets {mine}")  # in the backbone's units
    assert told(made, "num_steps") == (9, "preset tiny")
    assert told(moe(folder, f"presets={mine}", "scale=paper"), "stop_loss") == (0.5, "scale paper")
    assert told(moe(folder, f"presets={mine}", "method.edit_lr=0.5"), "edit_lr")[0] == 0.5
    block = tmp_path / "block.yaml"
    block.write_text("presets:\n  moe: {edit_lr: 1e-2}\n")  # as it stands in a backbone's file
    assert told(moe(folder, f"presets={block}"), "edit_lr") == (1e-2, f"presets {block}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mooe: {edit_lr: 1.0}", ["mooe: no such name", "'moe'"]),
        ("moe: {edit_lrr: 1.0}", ["moe: edit_lrr: no such name", "'edit_lr'"]),
        ("moe: {module: other}", ["moe: module: no such name"]),
        ("none: {edit_lr: 1.0}", ["none: edit_lr: no such name", "known: none"]),
        ("moe: {num_steps: many}", ['moe.num_steps="many"', "whole number"]),
        ("moe: 3", ["moe: must be a mapping", "not 3"]),
        ("[moe]", ["must hold a mapping, not a list"]),
        ("moe: {", ["not readable as YAML"]),
        ("moe: !!python/object:os.system {}", ["not readable as YAML"]),
    ],
)
def test_plan_when_a_file_of_presets_cannot_be_obeyed_then_one_line_says_why(
    folder: Path, tmp_path: Path, text: str, parts: list[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text + "\n")
    message = refusal(folder, "ablation=ranks", f"presets={mine}")
    assert [part for part in (*parts, str(mine)) if part not in message] == [], message
    assert "\n" not in message


def test_plan_when_presets_name_no_file_then_they_are_refused(folder: Path) -> None:
    assert "presets=none.yaml: there is no such file" in refusal(
        folder, "ablation=ranks", "presets=none.yaml"
    )
    assert "presets=3: " in refusal(folder, "ablation=ranks", "presets=3")
    assert "did you mean 'presets'?" in refusal(
        folder, "ablation=ranks", "backbone.presets={moe: {num_steps: 1}}"
    )
    for typed in ("backbone.edit_layer=3", "axes.backbone.edit_layer=[3]"):
        assert "no such name; did you mean 'method.edit_layer'?" in refusal(
            folder, "ablation=methods", typed
        )


@pytest.mark.parametrize(
    ("presets", "parts"),
    [
        ("{mooe: {edit_lr: 1.0}}", ["backbone own: presets: mooe", "'moe'"]),
        ("{moe: {edit_lrr: 1.0}}", ["backbone own: presets.moe: edit_lrr", "'edit_lr'"]),
        ("{moe: {num_steps: 1.5}}", ["backbone own: presets.moe.num_steps=1.5", "whole number"]),
        ("{moe: 1}", ["backbone own: presets.moe: must be a mapping"]),
        ("[moe]", ["backbone own: presets: must be a mapping"]),
    ],
)
def test_plan_when_a_backbone_presets_what_does_not_exist_then_its_file_is_named(
    folder: Path, presets: str, parts: list[str]
) -> None:
    (folder / "backbone" / "own.yaml").write_text(
        f"{{name: own, base: tiny, presets_from: null, presets: {presets}}}"
    )
    message = refusal(folder, "ablation=ranks", "backbone=own")
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("name", ["tiny", "big"])
def test_plan_when_a_folder_is_called_like_a_backbone_then_its_name_chooses_nothing(
    folder: Path, tmp_path: Path, name: str
) -> None:
    made = {}
    for called in (name, "another"):
        local = tmp_path / called
        local.mkdir()
        (local / "config.json").write_text(
            json.dumps({"model_type": "gpt2", "n_layer": 8, "n_embd": 64})
        )
        (local / "model.safetensors").write_bytes(b"\0" * 64)
        made[called] = moe(folder, f"backbone.model={local}")
    assert made[name].method == made["another"].method
    assert told(made[name], "edit_layer") == (5, "method moe")  # 18 * 8 / 32 = 4.5
    assert told(made[name], "edit_lr") == (2e-4, "method moe")


def test_notes_when_arms_run_without_a_preset_then_backbone_and_methods_are_named(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "backbone" / "bare.yaml").write_text("{name: bare, base: tiny, presets_from: null}")
    assert plan(folder, "ablation=methods").notes == ()  # and `none` has nothing to preset
    bare = ("ablation=methods", "backbone=bare")
    (note,) = plan(folder, *bare).notes
    assert note == (
        "no preset for bare: multi, moe run with the values of the method's own file; "
        "presets=FILE gives others"
    )
    (note,) = plan(folder, *bare, "axes.method=[none,moe]").notes
    assert note.startswith("no preset for bare: moe runs with")
    # where a preset is, whatever takes its place; and where the method's file was written for it
    assert plan(folder, "ablation=ranks", "method.edit_lr=1", "method.num_steps=1").notes == ()
    assert plan(folder, "ablation=methods", "backbone=big").notes == ()
    mine = tmp_path / "mine.yaml"
    mine.write_text("{moe: {top_k: 1}, multi: {clamp: 1.0}}")
    assert plan(folder, *bare, f"presets={mine}").notes == ()
    search = plan(folder, "ablation=search", "backbone=bare")
    assert [note.partition(" run")[0] for note in search.notes] == ["no preset for bare: moe"]


def test_arm_values_when_typed_for_a_method_then_that_one_alone_obeys(folder: Path) -> None:
    plain = by_arm(folder, "ablation=methods")
    made = by_arm(folder, "ablation=methods", "method.moe.edit_lr=0.5", "method.moe.edit_layer=2")
    assert told(made["moe"], "edit_lr") == (0.5, "command line")
    assert told(made["moe"], "edit_layer") == (2, "command line")  # in the backbone's units
    assert made["multi"].method == plain["multi"].method
    both = moe(folder, "method.edit_lr=0.1", "method.moe.edit_lr=0.5")
    assert told(both, "edit_lr") == (0.5, "command line")
    assert set(made) == set(plain)  # an arm keeps its name, as where the key is typed for all


def test_arm_values_when_arms_have_names_then_these_are_meant(folder: Path) -> None:
    parts = ("ablation=parts", "axes.protocol.num_edits=null")
    plain, made = by_arm(folder, *parts), by_arm(folder, *parts, "method.shuffled.edit_lr=0.5")
    assert made["shuffled"].method["edit_lr"] == 0.5
    assert made["full"].method == plain["full"].method
    of_method = by_arm(folder, *parts, "method.moe.edit_lr=0.5", "method.full.edit_lr=0.25")
    assert [of_method[arm].method["edit_lr"] for arm in ("full", "shuffled")] == [0.25, 0.5]
    assert of_method["whole"].method == plain["whole"].method  # of another method


@pytest.mark.parametrize(
    ("ablation", "typed", "parts"),
    [
        ("methods", "method.mooe.edit_lr=1", ["method.mooe.edit_lr", "'moe'", "multi"]),
        ("methods", "method.moe.edit_lrr=1", ["method.moe.edit_lrr", "did you mean"]),
        ("methods", "method.none.edit_lr=1", ["method.none.edit_lr", "methods: none"]),
        ("methods", "method.moe.module=ft", ["method.moe.module", "no such name"]),
        ("methods", "method.moe.num_steps=few", ['method.moe.num_steps="few"', "whole number"]),
        ("parts", "method.full.edit_layer=1", ["cannot be typed", "arms: full"]),
        ("parts", "method.moe.edit_layer=1", ["cannot be typed", "arms: full"]),
        ("parts", "method.whole.edit_lr=1", ["method.whole.edit_lr", "methods: multi"]),
        ("ranks", "method.moe.top_k=1", ["axes.method.top_k moves it", "axes.method.top_k=null"]),
    ],
)
def test_arm_values_when_no_arm_can_obey_then_what_was_typed_is_named(
    folder: Path, ablation: str, typed: str, parts: list[str]
) -> None:
    message = refusal(folder, f"ablation={ablation}", typed)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("text", ["", "moe: {}", "multi: {layers: [1]}"])
def test_plan_when_a_file_of_presets_sets_nothing_of_it_then_refused(
    folder: Path, tmp_path: Path, text: str
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    words = refusal(folder, "ablation=ranks", f"presets={mine}")
    assert words == f"presets={mine}: sets nothing for moe"
