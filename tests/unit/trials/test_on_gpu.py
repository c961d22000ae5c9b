"""What a trial tells of its GPU and leaves on it; the GPU is pretended, see `tests.devices`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.devices import Devices, pretended
from tests.unit.file_trials import spec, write, zsre_line
from trainables.bases import read_method
from trainables.methods import method_settings
from trainables.spec import TrialSpec
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.workbench import Workbench


@pytest.fixture
def devices() -> Iterator[Devices]:
    with pretended(1) as made:
        yield made


def trial(method: str, folder: Path, path: Path, **settings: Any) -> TrialSpec:
    told = spec(folder, "zsre", path, num_edits=2)
    values = {**method_settings(read_method(method)), **settings}
    told["method"] = {"name": method, "module": read_method(method).get("module", method), **values}
    return TrialSpec.parse(told)


def test_trial_on_a_gpu_tells_its_own_peak_by_a_synchronised_clock_and_frees_its_caches(
    devices: Devices, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    runtime = Runtime(cache=tmp_path / "cache", store=tmp_path / "store")
    bench = Workbench(runtime.cache, device="cuda")
    rows, waits = [], []
    for method, settings in (
        ("lemoe", {"edit_layer": 1, "num_steps": 3, "anchor_source": "subject"}),
        ("no_edit", {}),
    ):
        run = TrialRun(
            bench, runtime, method, trial(method, checkpoints["llama"], path, **settings)
        )
        before = len(devices.syncs)
        rows.append(run.next_row())
        run.close()
        waits.append([sync.cause for sync in devices.syncs[before:]])
    edited, unedited = rows
    assert (edited["status"], edited["device"], edited["gpu"]) == ("finished", "cuda", "pretended")
    assert unedited["peak_gpu_gib"] < edited["peak_gpu_gib"]  # not that of the trial before
    for causes in waits:
        assert causes.count("synchronize") >= 2  # before and after what is timed
    bench.free_caches()  # as when memory has run out
    bench.halve_micro_batch()
    (gpu,) = devices.gpus
    weights = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (
            *bench.backbone(run.spec).model.parameters(),
            *bench.backbone(run.spec).model.buffers(),
        )
    }
    assert devices.live[gpu] == sum(weights.values())
