"""What the shape of a local checkpoint is read from, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.errors import UsageError
from orchestrator.planning.shapes import read_shape

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 24}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def store(path: Path, **sizes: int) -> None:
    save_file({name: np.zeros(size, np.float32) for name, size in sizes.items()}, path)


def test_read_shape_when_other_files_lie_beside_the_weights_then_they_do_not_count(
    folder: Path,
) -> None:
    store(folder / "model.safetensors", a=6)
    for name in ("adapter_model.safetensors", "consolidated.safetensors"):
        store(folder / name, b=50)
    assert read_shape(folder, "x")["num_parameters"] == 6


def test_read_shape_when_an_index_names_the_weights_then_those_count(folder: Path) -> None:
    places = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    store(folder / "model-1.safetensors", a=2, c=3)
    store(folder / "model-2.safetensors", b=4)
    store(folder / "consolidated.safetensors", a=2, b=4, c=3)
    assert read_shape(folder, "x")["num_parameters"] == 2 + 3 + 4


def test_read_shape_when_there_is_an_adapter_alone_then_refused(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(bytes(8))
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        read_shape(folder, "x")


def test_read_shape_when_weights_are_stored_in_half_precision_then_their_number_counts(
    tmp_path: Path,
) -> None:
    shape = {"num_hidden_layers": 1, "hidden_size": 4, "intermediate_size": 8, "vocab_size": 10}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **shape}))
    tensors = {"a": np.zeros((4, 8), np.float16), "b": np.zeros(4, np.float16)}
    save_file(tensors, tmp_path / "one.safetensors")
    save_file({"c": np.zeros((10, 4), np.float32)}, tmp_path / "two.safetensors")
    files = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    found = read_shape(tmp_path, "x")
    assert found["num_parameters"] == 32 + 4 + 40
    assert found["vocabulary_size"] == 10
    (tmp_path / "two.safetensors").write_bytes(b"version https://git-lfs")
    assert read_shape(tmp_path, "x")["num_parameters"] is None
