"""A small MLflow store written through the real client: what sweeps would have left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from analysis.published.measures import measure_of

BATCH = {
    "kind": "batch",
    "num_edits": 30,
    "edit_batch_size": 30,
    "num_batches": 1,
    "order": "given",
}
LIFELONG = {"kind": "lifelong", "num_edits": 20, "edit_batch_size": 4, "num_batches": 5}
LIFELONG |= {"order": "kmeans_filled"}
BEFORE = {"reliability": 0.1, "generality": 0.1, "locality_far": 1.0}


def shared_store(factory: pytest.TempPathFactory) -> Path:
    """The store that all tests share, filled on first use."""
    store = factory.getbasetemp() / "analysis_store"
    if not store.exists():
        store.mkdir()
        _fill(Writer(store))
    return store


class Writer:
    """Writes trials into one store."""

    def __init__(self, store: Path) -> None:
        self.store = store
        store.mkdir(parents=True, exist_ok=True)
        database = store / "mlflow.db"
        if not database.exists():
            database.write_bytes(_empty_database())
        self.client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        self._experiments: dict[str, str] = {}
        self._clock = 1_000

    def trial(
        self,
        ablation: str,
        arm: str,
        seed: int,
        scores: tuple[float, float, float] | None = None,
        records: list[dict[str, Any]] | None = None,
        numbers: Mapping[str, float] | None = None,
        **tags: Any,
    ) -> str:
        """Write one run.

        Its `scores` are final reliability, generality and far locality, in tokens and in the
        measure of the published table that it answers.
        """
        if ablation not in self._experiments:
            location = (self.store / "artifacts").as_uri()
            found = self.client.create_experiment(ablation, artifact_location=location)
            self._experiments[ablation] = found
        self._clock += 1_000
        values = _tags(ablation, arm, seed) | tags
        if records is not None:
            values["records"] = "records.jsonl"
        run = self.client.create_run(
            self._experiments[ablation],
            start_time=self._clock,
            tags={k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()},
        )
        if scores is not None:
            for measure in {"token", measure_of([values["paper"]])}:
                logged = _metrics(scores, values["protocol"], measure)
                self.client.log_batch(run.info.run_id, metrics=logged)
        if numbers:
            step = int(values["protocol"]["num_edits"])
            logged = [Metric(name, value, 0, step) for name, value in numbers.items()]
            self.client.log_batch(run.info.run_id, metrics=logged)
        if records is not None:
            path = self.store / "records.jsonl"
            path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
            self.client.log_artifact(run.info.run_id, str(path))
        return str(run.info.run_id)


@cache
def _empty_database() -> bytes:
    """MLflow's tables without a run: it takes seconds to make them, once in a process."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments(max_results=1)
        return path.read_bytes()


def _tags(ablation: str, arm: str, seed: int) -> dict[str, Any]:
    return {
        "fingerprint": f"{ablation}/{arm}/{seed}",
        "ablation": ablation,
        "arm": arm,
        "seed": str(seed),
        "method": "lemoe_lora",
        "module": "lemoe",
        "paper": "lemoe_table9",
        "scale": "quick",
        "status": "finished",
        "stop_reason": "completed",
        "fidelity": "1",
        "error": "",
        "protocol": BATCH,
        "backbone": "facts",
        "backbone_fingerprint": "abc",
        "num_layers": "16",
        "hidden_size": "128",
        "dataset": "facts",
        "dataset_digest": "d1",
        "dataset_part": "report",
        "target_field": "target_new",
        "published": {},
        "swept": {},
        "device": "cpu",
        "micro_batch": "whole",
        "dtype": "float32",
        "commit": "0123456789abcdef",
        "is_dirty": "false",
        "source_hash": "s1",
    }


def _metrics(
    scores: tuple[float, float, float], protocol: Mapping[str, Any], measure: str
) -> list[Metric]:
    names = ("reliability", "generality", "locality_far")
    final = dict(zip(names, scores, strict=True))
    step = int(protocol["num_edits"])
    logged = [Metric(f"{name}.{measure}.before", BEFORE[name], 0, 0) for name in names]
    # An earlier checkpoint, to be superseded by the last step.
    logged += [Metric(f"{name}.{measure}.final", 0.0, 0, step // 2) for name in names]
    logged += [Metric(f"{name}.{measure}.final", final[name], 0, step) for name in names]
    return [*logged, Metric("edit_seconds", 0.5, 0, step)]


def cell(layer: int, at: int, rank: list[int], own_rank: int) -> dict[str, Any]:
    """Tags of a LoRA arm with 10 experts and top-5: published layer and ranks, and our own."""
    own = {"method.edit_layer": at, "method.num_experts": 10, "method.top_k": 5}
    published = {"method.edit_layer": [layer], "method.num_experts": [10], "method.top_k": [5]}
    return {
        "swept": own | {"method.lora_rank": own_rank},
        "published": published | {"method.lora_rank": rank},
    }


def _fill(write: Writer) -> None:
    _fill_lora(write)
    _fill_others(write)
    path = write.store / "records.jsonl"
    path.unlink()


def _fill_lora(write: Writer) -> None:
    lora = "lemoe_lora"
    # Reliability .8, .9, 1.0 over three seeds; the first trial of seed 2 is superseded.
    middle = cell(18, 9, [512], 16)
    write.trial(lora, "middle", 2, (0.0, 0.0, 0.0), **middle)
    for seed, reliability in enumerate((0.8, 0.9, 1.0)):
        write.trial(lora, "middle", seed, (reliability, 0.5, 1.0), **middle)
    # One seed with per-record results of two subjects; stands for ranks 16 (printed) and 32, 64.
    records = [
        {
            "record_id": str(i),
            "subject": f"s{i % 2}",
            "score": score,
            "token": i % 2,
            "exact": i % 2,
        }
        for i in range(4)
        for score in ("reliability", "generality", "locality_far")
    ]
    small = cell(30, 15, [16, 32, 64], 2)
    write.trial(lora, "small", 0, (0.5, 0.5, 0.5), records, **small)
    write.trial(lora, "weak", 0, (0.05, 0.0, 1.0), **cell(10, 5, [512], 16))
    write.trial(lora, "top", 0, (0.6, 0.55, 1.0), **cell(30, 15, [512], 16))
    # One of three seeds failed, before it knew backbone and data.
    part = cell(16, 8, [16], 2)
    write.trial(lora, "part", 0, (0.3, 0.3, 0.9), **part)
    write.trial(lora, "part", 1, (0.4, 0.3, 0.9), **part)
    lost: dict[str, Any] = {"status": "failed", "stop_reason": "error", "error": "out of memory"}
    lost |= {"backbone_fingerprint": "", "dataset_digest": ""}
    write.trial(lora, "part", 2, None, **lost, **part)
    blown = cell(18, 9, [2048], 64)
    write.trial(lora, "blown", 0, None, status="diverged", stop_reason="diverged", **blown)
    stop: dict[str, Any] = {"status": "stopped", "stop_reason": "asha", "fidelity": "0.25"}
    base: dict[str, Any] = {"method": "no_edit", "device": "cuda", "is_dirty": "true"}
    base["dequantised_from"] = "Q4_1"
    base["micro_batch"] = "16"
    write.trial(lora, "no_edit", 0, (0.1, 0.05, 1.0), **base)
    write.trial(lora, "cut", 0, (0.2, 0.1, 0.9), **stop, **cell(16, 8, [512], 16))


def _fill_others(write: Writer) -> None:
    life: dict[str, Any] = {
        "paper": "lemoe_table1",
        "protocol": LIFELONG,
        "swept": {"protocol.num_edits": 20},
    }
    life |= {"published": {"protocol.num_edits": [100]}}
    write.trial("lemoe_lifelong", "lemoe", 0, (0.7, 0.5, 0.9), method="lemoe", **life)
    write.trial("lemoe_lifelong", "grace", 0, (0.9, 0.1, 1.0), method="grace", **life)
    given: dict[str, Any] = life | {"protocol": LIFELONG | {"order": "given"}}
    write.trial("lemoe_lifelong", "ft_m", 0, (0.4, 0.3, 0.2), method="ft_m", **given)
    layers: dict[str, Any] = {"paper": "lemoe_table8", "protocol": LIFELONG}
    for layer, at, score in ((0, 0, 0.2), (18, 9, 0.9), (30, 15, 0.3)):
        at_layer: dict[str, Any] = {
            "swept": {"method.edit_layer": at},
            "published": {"method.edit_layer": [layer]},
        }
        write.trial("lemoe_layers", f"layer{at}", 0, (score, score, 1.0), **layers, **at_layer)
    parts: dict[str, Any] = {"paper": "lemoe_table4", "protocol": LIFELONG}
    write.trial("lemoe_components", "full", 0, (0.8, 0.6, 1.0), **parts)
    random: dict[str, Any] = parts | {"protocol": LIFELONG | {"order": "random"}}
    write.trial("lemoe_components", "without_order_planning", 0, (0.7, 0.5, 1.0), **random)
    wrong: dict[str, Any] = {"paper": "memo", "protocol": LIFELONG}
    write.trial("smoke", "no_edit", 0, (0.1, 0.1, 1.0), **wrong, method="no_edit")
    counted = {"count.excluded": 3.0, "count.subject_absent": 4.0}
    write.trial("smoke", "ft_m", 0, (0.95, 0.5, 0.4), None, counted, **wrong, method="ft_m")
    for seed, limit in enumerate((45.0, 40.0)):
        numbers = {"generation_limit": limit, "reliability.token_no_blank.final": 0.25}
        write.trial("numbers", "ft_m", seed, (0.4, 0.5, 0.6), numbers=numbers, **wrong)
