"""A model that cannot be edited is refused by its config.json, in one line, by plan and trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.shapes import read_shape
from trainables.backbones.checkpoints.weight_check import read_config
from trainables.errors import BackboneError

SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48}
EXPERTS = "is a mixture of 8 experts a layer, whose weights are stacked; methods edit the one FFN"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, f"'mixtral' {EXPERTS}"),
        ({"model_type": "qwen3_moe", "num_experts": 8}, f"'qwen3_moe' {EXPERTS}"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 8}, f"'deepseek_v3' {EXPERTS}"),
        ({"model_type": "ernie4_5_moe", "moe_num_experts": 8}, f"'ernie4_5_moe' {EXPERTS}"),
        (
            {"model_type": "llama4", "text_config": {"num_local_experts": 8}},
            f"'llama4' {EXPERTS}",
        ),
        (
            {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **SIZES}},
            r"'gemma3' is a language model \(gemma3_text\) inside one of images or sound; give the",
        ),
        ({"model_type": "opt"}, "'opt' is not known; known: bloom, falcon, gemma2, "),
        (
            {"model_type": "falcon", "alibi": True},
            "has alibi=true; of family 'falcon' only models with alibi=false are edited",
        ),
        ({"model_type": "falcon", "new_decoder_architecture": True}, "new_decoder_architecture="),
        ({"model_type": "falcon", "parallel_attn": False}, "only models with parallel_attn=true"),
    ],
)
def test_a_model_that_cannot_be_edited_is_refused_in_one_line(
    config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **config}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=says) as planned:
        read_shape(tmp_path, str(tmp_path))
    with pytest.raises(BackboneError, match=says) as tried:
        read_config(tmp_path)
    assert str(planned.value) == str(tried.value)
    assert "\n" not in str(planned.value)


def test_a_setting_that_is_not_stated_has_the_value_that_is_edited(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon", **SIZES}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert read_shape(tmp_path, "x")["ffn_size"] == 4 * SIZES["hidden_size"]
