"""One process, several backbones: what it keeps of one must not answer for another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.backbones.gguf_files import write_gguf
from tests.unit.file_trials import spec, write, zsre_line
from trainables.backbones.checkpoints.checkpoint import fingerprint
from trainables.backbones.loading import Dtype
from trainables.interfaces import Backbone
from trainables.spec import TrialSpec
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.validation import Validator
from trainables.trials.workbench import Workbench


@pytest.fixture
def wanted(checkpoints: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    path = write(tmp_path / "zsre.jsonl", [zsre_line(number) for number in range(30)])
    return spec(checkpoints["llama"], "zsre", path)


def row_of(bench: Workbench, wanted: dict[str, Any]) -> dict[str, float]:
    loop = bench.loop(TrialSpec.parse(wanted))
    row = dict(loop.run())
    loop.close()
    bench.check_restored()
    return {name: value for name, value in row.items() if not name.endswith("_seconds")}


def in_dtype(wanted: dict[str, Any], dtype: Dtype) -> dict[str, Any]:
    return wanted | {"backbone": wanted["backbone"] | {"dtype": dtype}}


def test_other_dtype_in_the_same_process_then_the_row_of_a_process_of_its_own(
    wanted: dict[str, Any], tmp_path: Path
) -> None:
    shared = Workbench(tmp_path / "cache")
    for index, dtype in enumerate(("float32", "float16", "float32")):
        own = Workbench(tmp_path / f"cache{index}")
        asked = in_dtype(wanted, dtype)  # type: ignore[arg-type]
        assert row_of(shared, asked) == row_of(own, asked)


def test_trial_on_a_gguf_file_then_the_row_of_the_checkpoint_it_was_made_of(
    wanted: dict[str, Any], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    path = write_gguf(checkpoints["llama"], tmp_path / "tiny.gguf")
    quantised = wanted | {"backbone": wanted["backbone"] | {"model": str(path)}}
    found = Validator(cache).validate(TrialSpec.parse(quantised))
    (made,) = (cache / "backbones").glob("tiny-float32-*")  # before any trial
    assert found["backbone_fingerprint"] == fingerprint(made) != fingerprint(checkpoints["llama"])
    assert row_of(Workbench(cache), quantised) == row_of(Workbench(tmp_path / "own"), wanted)


def test_identity_then_dtype_and_device_tell_backbones_apart(llama: Backbone) -> None:
    narrow = replace(llama, fingerprint=llama.fingerprint)
    assert narrow.identity == llama.identity
    llama_keys = {llama.memory_key, str(llama.identity)}
    llama.model.bfloat16()
    assert llama_keys.isdisjoint({llama.memory_key, str(llama.identity)})
    assert llama.identity["device"] == "cpu"
    assert llama.memory_key.endswith("/cpu")


def test_source_when_another_file_bears_the_same_ids_then_its_own_records_are_asked(
    wanted: dict[str, Any], tmp_path: Path
) -> None:
    # Evaluators are kept by their records: the same ids and targets with other questions.
    def other(number: int) -> dict[str, Any]:
        return zsre_line(number) | {"rephrase": f"Say where person {number} was born."}

    path = write(tmp_path / "other.jsonl", [other(number) for number in range(30)])
    asked = wanted | {"dataset": wanted["dataset"] | {"path": str(path)}}
    shared = Workbench(tmp_path / "cache")
    row_of(shared, wanted)
    asked_now = [
        text for record in shared.loop(TrialSpec.parse(asked)).records for text in record.rephrases
    ]
    assert len(asked_now) == 3
    assert all(text.startswith("Say") for text in asked_now)


def test_trial_that_is_told_how_many_rows_fit_then_it_begins_with_so_many(
    wanted: dict[str, Any], tmp_path: Path
) -> None:
    bench, trial = Workbench(tmp_path / "cache"), TrialSpec.parse(wanted)
    names = trial.backbone.name, trial.method.name
    told = Runtime(tmp_path / "cache", tmp_path / "store", rows_at_a_time={names: 4})
    for key in ("first", "second"):
        run = TrialRun(bench, told, key, trial)
        rows = run.next_row()
        run.close()
        # what memory has taken away since stays so
        assert rows["micro_batch"] == (4 if key == "first" else 2)
        bench.halve_micro_batch()
    other = Runtime(tmp_path / "cache", tmp_path / "store", rows_at_a_time={("x", "y"): 2})
    run = TrialRun(Workbench(tmp_path / "cache"), other, "third", trial)
    assert "micro_batch" not in run.next_row()
    run.close()
