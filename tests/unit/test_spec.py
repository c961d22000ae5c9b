"""What a trial is told: the plan's mapping, parsed once."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning import plan
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces
from tests.unit.file_trials import spec
from trainables.errors import ConfigError
from trainables.methods import method_settings
from trainables.spec import BackboneSpec, DatasetSpec, PackageSpec, ProtocolSpec, TrialSpec

PARTS = {"backbone": BackboneSpec, "dataset": DatasetSpec, "protocol": ProtocolSpec}


def told(**changes: Any) -> dict[str, Any]:
    return spec(Path("model"), "zsre", Path("z.jsonl")) | changes


def commands(file: Path) -> Iterator[list[str]]:
    """Every ablation at both scales, and every backbone and data set there is."""
    spaces = SearchSpaces()
    for ablation in spaces.names("ablation"):
        yield from ([f"ablation={ablation}", f"scale={scale}"] for scale in ("quick", "paper"))
    for backbone in spaces.names("backbone"):
        model = str(spaces.load("backbone", backbone)["model"])
        is_hosted = not model.startswith(("embedded:", "packaged:"))
        pin = ["backbone.revision=main"] if is_hosted else []
        yield ["ablation=smoke", f"backbone={backbone}", *pin]
    for dataset in spaces.names("dataset"):
        is_file = spaces.load("dataset", dataset).get("source") == "file"
        path = (
            ["backbone=gpt2_xl", "backbone.revision=main", f"dataset.path={file}"]
            if is_file
            else []
        )
        yield ["ablation=smoke", f"dataset={dataset}", *path]


def plans(file: Path) -> Iterator[plan.TrialSpec]:
    """One trial of every kind that these plan: method, backbone, data set, protocol."""
    seen = set()
    for typed in commands(file):
        for trial in plan.expand(config.load(typed)).knowable:
            names = (trial.method["name"], trial.backbone["name"], trial.dataset["name"])
            kind = (*names, tuple(trial.protocol), trial.protocol["kind"])
            if kind not in seen:
                seen.add(kind)
                yield trial


def test_every_planned_trial_is_read_as_it_was_meant(tmp_path: Path) -> None:
    """Both ends of the channel: planner -> JSON -> trainables."""
    file = tmp_path / "any.json"
    file.touch()
    num_read = 0
    for trial in plans(file):
        sent = json.loads(json.dumps(trial.to_dict()))
        read = TrialSpec.parse(sent)
        assert (read.seed, read.arm) == (trial.seed, trial.arm)
        assert read.method.name == sent["method"]["name"]
        assert read.method.module == sent["method"]["module"]
        assert read.method.settings == method_settings(sent["method"])
        for part, kind in PARTS.items():
            for field in fields(kind):
                value = getattr(getattr(read, part), field.name)
                value = asdict(value) if isinstance(value, PackageSpec) else value
                assert value == sent[part].get(field.name, field.default), f"{part}.{field.name}"
        assert pickle.loads(pickle.dumps(read)) == read  # ranks of one trial send it on
        num_read += 1
    assert num_read > 50


@pytest.mark.parametrize("key", ["method", "backbone", "dataset", "protocol", "seed"])
def test_parse_when_a_part_is_missing_then_names_it(key: str) -> None:
    values = told()
    del values[key]
    with pytest.raises(ConfigError, match=rf"^{key} is missing in what a trial was told$"):
        TrialSpec.parse(values)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("method", "module"),
        ("backbone", "dtype"),
        ("dataset", "part"),
        ("protocol", "target_ends_with_eos"),
    ],
)
def test_parse_when_a_key_of_a_part_is_missing_then_names_both(part: str, key: str) -> None:
    values = told()
    del values[part][key]
    with pytest.raises(ConfigError, match=rf"^{part}\.{key} is missing in what a trial was told$"):
        TrialSpec.parse(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (told(sede=1), "sede is not known to a trial; did you mean seed?"),
        (
            told(protocol={"knd": "batch"}),
            "protocol.knd is not known to a trial; did you mean protocol.k",
        ),
        (told(dataset={"colour": 1}), "dataset.colour is not known to a trial"),
        (told(backbone="facts"), "backbone is 'facts'; a trial is told a mapping there"),
    ],
)
def test_parse_when_a_key_is_unknown_then_names_it_and_the_nearest(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        TrialSpec.parse(values)
    assert str(raised.value).startswith(words)


def test_protocol_when_its_kind_has_no_rounds_or_repeats_then_one() -> None:
    serial = ProtocolSpec("serial", 6, True, num_batches=3, answers_per_question=2)
    batch = ProtocolSpec("batch", 6, True, num_batches=3, answers_per_question=2)
    assert (serial.num_rounds, serial.num_repeats, serial.is_rolled_back) == (2, 1, False)
    assert (batch.num_rounds, batch.num_repeats, batch.is_rolled_back) == (1, 3, True)


def test_backbone_when_its_model_names_an_embedded_one_then_says_so() -> None:
    made = BackboneSpec("facts", "embedded:facts_tiny", "float32")
    assert (made.is_embedded, made.embedded_name) == (True, "facts_tiny")
    assert not BackboneSpec("facts", "a/facts", "float32").is_embedded
