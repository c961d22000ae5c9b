"""Where a process computes, on a machine whose torch says that it has a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.devices import pretended
from tests.unit.file_trials import spec, write, zsre_line
from trainables.backbones.loading import assigned_device, load_backbone
from trainables.spec import TrialSpec
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.workbench import Workbench


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may see two GPUs, and torch says that it can use them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")


@pytest.mark.usefixtures("two_gpus")
def test_process_that_was_given_no_gpu_computes_on_the_cpu_and_sees_none() -> None:
    assert assigned_device(2) == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert assigned_device(0) == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_process_whose_gpu_torch_cannot_use_computes_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert assigned_device(1) == "cpu"


def test_backbone_lies_where_it_is_asked_to(checkpoints: dict[str, Path]) -> None:
    with pretended(1) as devices:
        onto_cpu = load_backbone(checkpoints["llama"], device="cpu")
        load_backbone(checkpoints["llama"], device="cpu", home_layers=[1])  # spread over no GPUs
        assert not any(devices.peak.values())
        assert onto_cpu.device.type == "cpu"
        for asked in ("cuda", None):
            backbone = load_backbone(checkpoints["llama"], device=asked)
            places = {tensor.device for tensor in backbone.model.parameters()}
            assert places == set(devices.gpus)
            # what spreads a model over several GPUs also moves every input, in each pass
            assert not any(hasattr(module, "_hf_hook") for module in backbone.model.modules())


@pytest.mark.usefixtures("two_gpus")
def test_trial_planned_for_the_cpu_stays_there(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(checkpoints["llama"], "zsre", path, num_edits=2)
    runtime = Runtime(cache=tmp_path / "cache", store=tmp_path / "store")
    bench = Workbench(runtime.cache, device=assigned_device(0))
    row = TrialRun(bench, runtime, "key", TrialSpec.parse(wanted)).next_row()
    assert (row["status"], row["device"]) == ("finished", "cpu")
    assert not {"gpu", "peak_gpu_gib"} & row.keys()
