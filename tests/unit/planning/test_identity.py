from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.identity import canonical, fingerprint, identity_fields, short
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings import loading as config
from tests.unit.small_spaces import write_small_spaces

EXTRA = {"backbone_fingerprint": "aa", "dataset_digest": "bb", "method_version": 1}
SPEC = TrialSpec(
    ablation="ranks",
    arm="lora_rank=8",
    seed=0,
    method={"name": "moe_lora", "module": "moe", "lora_rank": 8, "edit_lr": 1e-3},
    backbone={"name": "tiny", "model": "embedded:tiny", "dtype": "float32", "num_layers": 16},
    dataset={"name": "world", "part": "report", "version": 1, "path": "/a", "target_field": "alt"},
    protocol={"kind": "batch", "num_edits": 30, "edit_batch_size": 30, "order": "given"},
    swept={"method.lora_rank": 8},
    published={"method.lora_rank": [256]},
)


def test_canonical_when_written_out_then_keys_are_sorted_and_floats_are_shortest() -> None:
    assert canonical({"b": [1, 0.1, None], "a": {"y": True, "x": "é"}}) == (
        '{"a":{"x":"\\u00e9","y":true},"b":[1,0.1,null]}'
    )
    assert canonical((1, 2)) == "[1,2]"


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), {"a": [float("inf")]}, {1: 2}, {1, 2}]
)
def test_canonical_when_json_has_no_form_then_it_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match=r"place in an identity|not JSON|must be strings"):
        canonical(value)


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_canonical_when_keys_come_in_another_order_then_it_is_the_same(
    value: dict[str, Any],
) -> None:
    assert canonical(value) == canonical(dict(reversed(value.items())))
    assert json.loads(canonical(value)) == value


def test_fingerprint_when_computed_then_it_is_the_hash_of_the_canonical_identity() -> None:
    text = canonical(identity_fields(SPEC, EXTRA))
    assert fingerprint(SPEC, EXTRA) == hashlib.sha256(text.encode()).hexdigest()
    assert short(fingerprint(SPEC, EXTRA)) == fingerprint(SPEC, EXTRA)[:16]


@pytest.mark.parametrize(
    "change",
    [
        {"ablation": "another"},
        {"arm": "renamed"},
        {"published": {}},
        {"swept": {}},
        {"method": {**SPEC.method, "name": "another_arm"}},
        {"method": {**SPEC.method, "reading": "printed"}},  # its values stand there
        {"dataset": {**SPEC.dataset, "path": "/elsewhere"}},
        {"dataset": {**SPEC.dataset, "path": ["/one", "/two"]}},
        {"dataset": {**SPEC.dataset, "keep_unchanged": True}},  # the digest tells
        {"dataset": {**SPEC.dataset, "answers": None}},
        {"dataset": {**SPEC.dataset, "answers": "/a/file"}},  # the digest tells its content
        {"dataset": {**SPEC.dataset, "module": "world"}},  # as the name says, too
        {"backbone": {**SPEC.backbone, "name": "copy", "model": "/a/copy", "memory_gib": 3.0}},
    ],
)
def test_fingerprint_when_only_a_name_or_place_changes_then_it_stays(
    change: dict[str, Any],
) -> None:
    assert fingerprint(dataclasses.replace(SPEC, **change), EXTRA) == fingerprint(SPEC, EXTRA)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"method": {**SPEC.method, "lora_rank": 16}},
        {"method": {**SPEC.method, "module": "other"}},
        {"method": {**SPEC.method, "kl_position": "last"}},  # of another method than memit
        {"backbone": {**SPEC.backbone, "dtype": "bfloat16"}},
        {"dataset": {**SPEC.dataset, "part": "tune"}},
        {"dataset": {**SPEC.dataset, "version": 2}},
        {"dataset": {**SPEC.dataset, "module": "other"}},
        {"dataset": {**SPEC.dataset, "target_field": "answers"}},
        {"protocol": {**SPEC.protocol, "order": "random"}},
        {"protocol": {**SPEC.protocol, "update_order": "bursts"}},
        {"protocol": {**SPEC.protocol, "edit_batch_size": 10}},
    ],
)
def test_fingerprint_when_a_number_could_change_then_it_changes(change: dict[str, Any]) -> None:
    assert fingerprint(dataclasses.replace(SPEC, **change), EXTRA) != fingerprint(SPEC, EXTRA)


@pytest.mark.parametrize("key", EXTRA)
def test_fingerprint_when_data_weights_or_version_change_then_it_changes(key: str) -> None:
    assert fingerprint(SPEC, {**EXTRA, key: "other"}) != fingerprint(SPEC, EXTRA)


def test_fingerprint_when_two_ablations_hold_the_same_cell_then_it_is_shared(
    tmp_path: Path,
) -> None:
    folder = write_small_spaces(tmp_path)
    copy = (folder / "ablation/ranks.yaml").read_text().replace("From which rank on?", "Again?")
    (folder / "ablation/again.yaml").write_text(copy)
    typed = ["seeds=[0]", "workers=3", "store=/elsewhere", "scheduler=asha"]
    prints = [
        {fingerprint(trial, EXTRA) for trial in expand(config.load(overrides, folder)).trials}
        for overrides in (["ablation=ranks", "seeds=[0]"], ["ablation=again", *typed])
    ]
    assert prints[0] == prints[1]
    assert len(prints[0]) == 9


def test_spec_when_written_and_read_as_json_then_it_is_the_same_trial() -> None:
    again = TrialSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert again == SPEC
    assert fingerprint(again, EXTRA) == fingerprint(SPEC, EXTRA)


@pytest.mark.parametrize(
    ("module", "key", "as_before", "other"),
    [
        ("ft", "mini_batch_size", None, 10),
        ("memit", "kl_position", "last", "subject"),
        ("lemoe", "renormalises_gates", True, False),
        ("memoe_v2", "merging", "top_k", "soft"),
        ("arm", "likelihood_term", True, False),
        ("arm", "router_optimiser", "adam", "sgd"),
    ],
)
def test_fingerprint_when_a_setting_was_added_then_what_held_before_is_what_it_was(
    module: str, key: str, as_before: object, other: object
) -> None:
    method = {**SPEC.method, "module": module}
    before, same, new = (
        fingerprint(dataclasses.replace(SPEC, method=method | more), EXTRA)
        for more in ({}, {key: as_before}, {key: other})
    )
    assert before == same != new
