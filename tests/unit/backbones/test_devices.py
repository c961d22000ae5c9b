"""Where a process computes, on a machine whose torch says that it has a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.unit.file_trials import spec, write, zsre_line
from trainables.backbones.loading import assigned_device, load_backbone
from trainables.spec import TrialSpec
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.workbench import Workbench


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """What is moved to the GPU that there is not."""
    found: list[torch.nn.Module] = []

    def cuda(module: torch.nn.Module) -> torch.nn.Module:
        found.append(module)
        return module

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "cuda", cuda)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return found


def test_process_that_was_given_no_gpu_computes_on_the_cpu_and_sees_none(
    moves: list[torch.nn.Module],
) -> None:
    assert assigned_device(2) == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert assigned_device(0) == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_process_whose_gpu_torch_cannot_use_computes_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert assigned_device(1) == "cpu"


def test_backbone_lies_where_it_is_asked_to(
    moves: list[torch.nn.Module], checkpoints: dict[str, Path]
) -> None:
    onto_cpu = load_backbone(checkpoints["llama"], device="cpu")
    load_backbone(checkpoints["llama"], device="cpu", home_layers=[1])  # spread over no GPUs
    assert moves == []
    asked, by_itself = (load_backbone(checkpoints["llama"], device=d) for d in ("cuda", None))
    assert moves == [asked.model, by_itself.model]
    assert onto_cpu.device.type == "cpu"


def test_trial_planned_for_the_cpu_stays_there(
    moves: list[torch.nn.Module], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(checkpoints["llama"], "zsre", path, num_edits=2)
    runtime = Runtime(cache=tmp_path / "cache", store=tmp_path / "store")
    bench = Workbench(runtime.cache, device=assigned_device(0))
    row = TrialRun(bench, runtime, "key", TrialSpec.parse(wanted)).next_row()
    assert (row["status"], row["device"]) == ("finished", "cpu")
    assert moves == []
    assert not {"gpu", "peak_gpu_gib"} & row.keys()
