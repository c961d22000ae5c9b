"""No method mixes devices, and none waits for its GPU more often than it did: without any GPU.

Every file in search_spaces/method/ runs a whole trial on pretended GPUs, see `tests.devices`.
`python -m tests.devices <method> --lines` says where the host waits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.contract.test_every_method import METHODS
from tests.devices.trials import (
    FAMILIES,
    HOME,
    Layout,
    loaded,
    run_side_by_side,
    run_trial,
)

# Waits of the host in the worst optimiser step after the first of a batch: what no method exceeds,
# and what these have reached.
ALLOWED_SYNCS = 3
MOST_SYNCS = {
    "alphaedit": 2,
    "arm": 1,
    "comeba_hk": 2,
    "conventional_moe": 2,
    "defer": 1,
    "dense_adapter": 2,
    "ft_ewc": 2,
    "ft_l": 1,
    "ft_m": 1,
    "grace": 1,
    "lemoe": 2,
    "lemoe_lora": 2,
    "locft_bf": 1,
    "lora": 1,
    "malmen": 0,
    "memit": 2,
    "mend": 0,
    "memoir": 1,
    "memoe_v1": 2,
    "memoe_v2": 2,
    "no_edit": 0,
    "r_rome": 3,
    "rome": 3,
    "ultraedit": 0,
    "wise_merge": 1,
    "wise_retrieval": 1,
}
# Waits of the one step that ends an edit and sets up the next, where edits are made in turn.
BETWEEN_EDITS = {"memoir": 16, "r_rome": 10, "rome": 9}
# The same of edits side by side.
SIDE_BY_SIDE = {"ft_l": 1, "ft_m": 1, "grace": 1, "lora": 2, "rome": 2, "memit": 2, "alphaedit": 2}
# The same of edits with a method each, on the one GPU that they need: two waits together, and one
# for each of three where experts are asked which of them are open, or an edit if it is learned.
METHOD_EACH = {
    "arm": 2,
    "defer": 2,
    "dense_adapter": 5,
    "ft_ewc": 6,
    "lemoe": 5,
    "memoe_v1": 5,
    "memoe_v2": 5,
    "wise_merge": 2,
}
GPUS = [
    ("llama", "sharded"),
    ("gpt2", "one"),
    # Each family and each layout has been asked by now.
    pytest.param("llama", "one", marks=pytest.mark.slow),
    pytest.param("gpt2", "sharded", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "layout"), GPUS)
@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_edits_side_by_side_on_gpus_mix_no_devices_and_seldom_wait(
    name: str, family: str, layout: Layout, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    worst = run_side_by_side(name, checkpoints[family], layout, tmp_path)
    assert len(worst) <= SIDE_BY_SIDE[name], worst


@pytest.mark.parametrize("name", METHOD_EACH)
def test_edits_with_a_method_each_on_a_gpu_mix_no_devices_and_seldom_wait(
    name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    worst = run_side_by_side(name, checkpoints["llama"], "one", tmp_path)
    assert len(worst) <= METHOD_EACH[name], worst


@pytest.mark.parametrize(("family", "layout"), GPUS)
@pytest.mark.parametrize("name", METHODS)
def test_trial_on_gpus_mixes_no_devices_and_seldom_waits(
    name: str, family: str, layout: Layout, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    trial = run_trial(name, checkpoints[family], layout, tmp_path)
    assert not trial.mixes
    assert min(trial.peak_bytes.values()) > 0
    steps = sorted(trial.steps, key=len)
    if name in BETWEEN_EDITS:
        assert len(steps.pop()) <= BETWEEN_EDITS[name], trial.worst_step
    assert max(map(len, steps), default=0) <= MOST_SYNCS.get(name, ALLOWED_SYNCS), steps[-1]


def test_limits_of_waits_name_methods_and_are_within_what_is_allowed() -> None:
    assert set(MOST_SYNCS) <= set(METHODS)
    assert max(MOST_SYNCS.values()) <= ALLOWED_SYNCS


@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_backbone_lies_on_all_gpus_with_the_edited_layers_at_home(
    family: str, checkpoints: dict[str, Path]
) -> None:
    with loaded(checkpoints[family], "sharded") as (devices, backbone):
        used = {parameter.device for parameter in backbone.model.parameters()}
        assert used == set(devices.gpus)
        assert backbone.device == devices.gpus[0] == torch.device("cuda:0")
        for layer in HOME:
            for weight in backbone.model.get_submodule(backbone.layer_path(layer)).parameters():
                assert weight.device == backbone.device
