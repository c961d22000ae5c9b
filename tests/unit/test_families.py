"""Families are data that both packages read, and nothing that a sweep chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import UsageError
from orchestrator.planning import families as planned
from orchestrator.planning.plan import expand
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import GROUPS, SearchSpaces
from tests.unit.file_trials import spec, write, zsre_line
from tests.unit.small_spaces import write_small_spaces
from trainables.backbones import families
from trainables.errors import BackboneError
from trainables.methods import method_settings
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator


@pytest.mark.parametrize("name", ["t5", "../backbone/facts", ""])
def test_get_family_when_it_has_no_file_then_those_that_have_are_named(name: str) -> None:
    with pytest.raises(BackboneError, match=rf"'{name}' is not known; known: bloom, falcon, "):
        families.get_family(name)


@pytest.mark.parametrize(
    ("change", "part"),
    [({"norm_afer_ffn": "norm"}, "norm_afer_ffn"), ({"config": {}}, "max_positions")],
)
def test_get_family_when_its_file_is_wrong_then_file_and_key_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], part: str
) -> None:
    whole = yaml.safe_load((families.FOLDER / "llama.yaml").read_text())
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**whole, **change}))
    monkeypatch.setattr(families, "FOLDER", tmp_path)
    with pytest.raises(BackboneError, match=rf"bad\.yaml does not describe a family: .*{part}"):
        families.get_family("bad")


def test_get_family_when_the_folder_is_not_there_then_it_says_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "FOLDER", tmp_path / "family")
    with pytest.raises(BackboneError, match="holds no family; install from the source tree"):
        families.get_family("llama")


def test_planned_family_when_read_then_gate_and_keys_are_those_of_the_file() -> None:
    gpt2, llama = planned.get_family("gpt2"), planned.get_family("llama")
    assert (gpt2.num_ffn_matrices, llama.num_ffn_matrices) == (2, 3)
    assert gpt2.hidden_size == ("n_embd", "hidden_size")
    assert planned.get_family("bloom").ffn_size == ()


def test_a_family_when_typed_then_it_is_nothing_that_a_sweep_chooses() -> None:
    assert "family" not in GROUPS
    with pytest.raises(UsageError, match="family"):
        config.load(["ablation=smoke", "family=gpt2"])


def test_backbone_family_when_it_has_no_file_then_refused_before_the_start(tmp_path: Path) -> None:
    spaces = write_small_spaces(tmp_path / "search_spaces")
    file = spaces / "backbone" / "big.yaml"
    file.write_text(file.read_text().replace("family: llama", "family: lama"))
    with pytest.raises(UsageError, match=r"backbone\.family=lama: .* known: bloom, falcon, gemma2"):
        expand(config.load(["ablation=ranks", "backbone=big"], spaces))


def test_memit_when_a_norm_stands_behind_the_ffn_then_refused_before_the_start(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    path = write(tmp_path / "zsre.jsonl", [zsre_line(number) for number in range(40)])
    memit = method_settings(SearchSpaces().load("method", "memit"))

    def validate(family: str) -> None:
        wanted = spec(checkpoints[family], "zsre", path)
        wanted["method"] = {"name": "memit", "module": "memit", **memit}
        Validator(tmp_path).validate(TrialSpec.parse(wanted))

    validate("llama")
    with pytest.raises(BackboneError, match=r"memit .* 'olmo2' .*post_feedforward_layernorm"):
        validate("olmo2")
