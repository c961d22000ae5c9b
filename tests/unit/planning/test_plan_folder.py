"""Plans whose backbone is a folder of the user's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan, expand
from orchestrator.settings import loading as config
from tests.unit.small_spaces import write_small_spaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")


def plan(folder: Path, *typed: str) -> Plan:
    return expand(config.load(typed, folder))


def checkpoint(folder: Path, weights: str, **values: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    (folder / weights).write_bytes(b"\0" * 64)
    return folder


def test_expand_when_the_backbone_is_a_folder_then_its_config_gives_the_shape(
    folder: Path, tmp_path: Path
) -> None:
    local = checkpoint(
        tmp_path / "mine",
        "model.safetensors",
        model_type="gpt2",
        n_layer=8,
        n_embd=64,
        n_inner=None,
    )
    trial = plan(folder, "ablation=ranks", f"backbone.model={local}").trials[0]
    shape = {
        key: trial.backbone[key]
        for key in ("name", "family", "num_layers", "hidden_size", "ffn_size")
    }
    assert shape == {
        "name": "mine",
        "family": "gpt2",
        "num_layers": 8,
        "hidden_size": 64,
        "ffn_size": 256,
    }  # GPT-2 leaves n_inner out when it is 4 x n_embd
    assert trial.method["edit_layer"] == 5  # 18 * 8 / 32 = 4.5
    assert "memory_gib" not in trial.backbone


def test_expand_when_a_folder_has_the_yamls_shape_then_it_keeps_its_name(
    folder: Path, tmp_path: Path
) -> None:
    shape = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008}
    local = checkpoint(tmp_path / "copy", "model.safetensors", model_type="llama", **shape)
    trial = plan(folder, "ablation=ranks", "backbone=big", f"backbone.model={local}").trials[0]
    assert trial.backbone["name"] == "big"
    assert trial.backbone["model"] == str(local)


@pytest.mark.parametrize(
    ("weights", "values", "part"),
    [
        ("pytorch_model.bin", {"model_type": "llama"}, "only pytorch_model.bin"),
        ("model.safetensors", {"model_type": "t5"}, "'t5' is not known; known: bloom, falcon, gem"),
        ("model.safetensors", {"model_type": "llama"}, "does not state depth and width"),
    ],
)
def test_expand_when_a_checkpoint_cannot_be_used_then_it_says_why(
    folder: Path, tmp_path: Path, weights: str, values: dict[str, Any], part: str
) -> None:
    local = checkpoint(tmp_path / "bad", weights, **values)
    with pytest.raises(UsageError, match=part):
        plan(folder, "ablation=ranks", f"backbone.model={local}")
