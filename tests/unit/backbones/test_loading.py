"""What a checkpoint's fingerprint covers, and folders that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import save_tiny
from tests.unit.damage import change
from trainables.backbones.checkpoints.checkpoint import fingerprint
from trainables.backbones.loading import load_backbone
from trainables.errors import BackboneError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def split(folder: Path, name: str) -> None:
    """Let an index say that all weights lie in the file `name`."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(["lm_head.weight"], name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_fingerprint_when_the_configuration_alone_differs_then_another_one(folder: Path) -> None:
    before, answers = fingerprint(folder), load_backbone(folder).fingerprint
    change(folder / "config.json", rms_norm_eps=0.5)
    assert fingerprint(folder) != before
    assert load_backbone(folder).fingerprint != answers


def test_fingerprint_when_the_tokenizer_or_a_training_text_differs_then_another_one(
    folder: Path,
) -> None:
    found = [fingerprint(folder)]
    change(folder / "tokenizer_config.json", model_max_length=7)
    found.append(fingerprint(folder))
    (folder / "training_text.txt").write_text("a passage\n")  # second moments are taken from it
    found.append(fingerprint(folder))
    assert len(set(found)) == 3


def test_fingerprint_when_only_notes_of_the_training_differ_then_the_same(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "report.json").write_text('{"wall_seconds": 97.0}')
    assert fingerprint(folder) == before


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/tmp/elsewhere.safetensors", "sub/a.safetensors", "a.bin"]
)
def test_index_that_names_weights_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    split(folder, name)
    for read in (load_backbone, fingerprint):
        with pytest.raises(BackboneError, match=r"weights must be \*\.safetensors in the folder"):
            read(folder)


def test_index_that_names_a_file_that_is_missing_is_refused(folder: Path) -> None:
    split(folder, "model-00002-of-00002.safetensors")
    with pytest.raises(BackboneError, match=r"model-00002-of-00002\.safetensors, which is not"):
        fingerprint(folder)


def test_index_that_is_none_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a.safetensors"]}')
    with pytest.raises(BackboneError, match="is no index of weights"):
        fingerprint(folder)


def test_checkpoint_in_several_files_is_loaded(saved: Path, tmp_path: Path) -> None:
    whole = load_backbone(saved)
    whole.model.save_pretrained(tmp_path, max_shard_size="20KB")
    whole.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    parts = load_backbone(tmp_path).model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert value.equal(parts[name]), name
