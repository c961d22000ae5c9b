"""Files that stand on others: `base`, `presets_from`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces
from tests.unit.small_spaces import write_small_spaces
from trainables.bases import presets_of, read_method, read_presets, with_base
from trainables.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")


def only(folder: Path, *typed: str) -> TrialSpec:
    return expand(config.load(["ablation=methods", "seeds=[0]", *typed], folder)).trials[0]


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(text, "utf-8")


def test_with_base_when_files_stand_on_one_another_then_the_nearest_line_holds() -> None:
    files: Mapping[str, Any] = {
        "a": {"name": "a", "rate": 1, "steps": 2, "presets": {"x": {"default": {"rate": 3}}}},
        "b": {"name": "b", "base": "a", "rate": 4},
        "c": {"name": "c", "base": "b", "steps": 5, "presets": {"x": {"paper": {"rate": 6}}}},
    }
    values, stands_in = with_base("c", files.__getitem__, has_module=True)
    assert values == {
        "name": "c",
        "module": "a",  # that of the lowest, which names none and so bears its own name
        "rate": 4,
        "steps": 5,
        "presets": {"x": {"default": {"rate": 3}, "paper": {"rate": 6}}},
    }
    assert stands_in == {"name": "c", "rate": "b", "steps": "c", "presets": "c"}
    assert files["a"]["presets"] == {"x": {"default": {"rate": 3}}}  # nothing is written into them
    assert "module" not in with_base("c", files.__getitem__, has_module=False)[0]


def test_presets_of_when_a_backbone_names_another_then_its_base_is_not_asked() -> None:
    files: Mapping[str, Any] = {
        "a": {"presets": {"moe": {"rate": 1, "layer": 2}}},
        "b": {"base": "a", "presets": {"moe": {"layer": 3}, "ft": {"rate": 4}}},
        "c": {"base": "a", "presets_from": "b", "presets": {"ft": {"rate": 5}}},
        "none": {"base": "a", "presets_from": None},
    }
    assert presets_of("b", files.__getitem__) == {
        "moe": {"rate": (1, "a"), "layer": (3, "b")},
        "ft": {"rate": (4, "b")},
    }
    assert presets_of("c", files.__getitem__) == {
        "moe": {"rate": (1, "a"), "layer": (3, "b")},
        "ft": {"rate": (5, "c")},
    }
    assert presets_of("none", files.__getitem__) == {}


def test_load_when_files_come_back_to_themselves_then_the_circle_is_named(folder: Path) -> None:
    write(folder / "method", "round", "{name: round, base: about}")
    write(folder / "method", "about", "{name: about, base: round}")
    with pytest.raises(UsageError, match="method round: round -> about -> round: comes back"):
        SearchSpaces(folder).load("method", "round")
    write(folder / "backbone", "one", "{name: one, base: tiny, presets_from: one}")
    with pytest.raises(UsageError, match="one -> one: comes back"):
        SearchSpaces(folder).presets("one")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("base: moee", ["method mine stands on moee", "'moe'"]),
        ("base: [moe]", ["method mine", "base=['moe']", "name of a file"]),
        ("base: null", ["method mine", "base=None", "name of a file"]),
    ],
)
def test_load_when_a_base_is_none_then_file_and_line_are_named(
    folder: Path, line: str, parts: list[str]
) -> None:
    write(folder / "method", "mine", f"name: mine\n{line}\n")
    with pytest.raises(UsageError) as refused:
        SearchSpaces(folder).load("method", "mine")
    assert [part for part in parts if part not in str(refused.value)] == []


def test_plan_when_method_backbone_and_data_set_have_a_base_then_each_value_names_its_file(
    folder: Path,
) -> None:
    write(folder / "method", "mine", "{name: mine, base: multi, clamp: 2.0}")
    write(folder / "backbone", "wider", "{name: wider, base: tiny, hidden_size: 256}")
    write(folder / "dataset", "tuned", "{name: tuned, base: world, part: tune}")
    trial = only(folder, "axes.method=[mine]", "backbone=wider", "dataset=tuned")
    assert trial.method == {
        "name": "mine",
        "module": "other",
        "layers": [2, 3, 4],  # 4 to 8 of 32 in 16
        "clamp": 2.0,
    }
    assert (trial.backbone["num_layers"], trial.backbone["hidden_size"]) == (16, 256)
    assert (trial.dataset["version"], trial.dataset["part"]) == (1, "tune")
    shown = {key: origin.source for key, origin in trial.origins.items()}
    assert shown["method.clamp"] == "method mine"
    assert shown["method.layers"] == "method mine (base multi)"
    assert shown["backbone.hidden_size"] == "backbone wider"
    assert shown["backbone.num_layers"] == "backbone wider (base tiny)"
    assert shown["dataset.version"] == "dataset tuned (base world)"


def test_read_method_when_read_without_a_sweep_then_it_is_what_a_sweep_reads() -> None:
    spaces = SearchSpaces()
    for name in spaces.names("method"):
        assert read_method(name) == spaces.load("method", name)
    for backbone in spaces.names("backbone"):
        for method, values in spaces.presets(backbone).items():
            assert read_presets(backbone, method) == {
                key: each for key, (each, _) in values.items()
            }
    with pytest.raises(ConfigError, match="no method 'lemo'; known: alphaedit, arm, "):
        read_method("lemo")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("edit_layer: abc", r"^method\.edit_layer=\"abc\": must be a whole number \(method mine\)"),
        ("edit_layer: 10.5", r"^method\.edit_layer=10\.5: must be a whole number"),
        ("edit_layer: true", r"^method\.edit_layer=true: must be a whole number"),
        ("lora_rank: [3]", r"^method\.lora_rank=\[3\]: must be a whole number"),
        ("layers: 5", r"^method\.layers=5: must be a list of whole numbers"),
        ("layers: [1, a]", r"^method\.layers=\[1, \"a\"\]: must be a whole number"),
    ],
)
def test_plan_when_a_file_has_no_number_where_one_is_scaled_then_it_is_refused(
    folder: Path, line: str, said: str
) -> None:
    write(folder, "method/mine", f"base: moe\n{line}\n")
    with pytest.raises(UsageError, match=said):
        expand(config.load(["ablation=ranks", "method=mine"], folder))
