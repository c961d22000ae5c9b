"""What tables, claims and the page cost over 10,000 runs, by the real commands on a made store."""

from __future__ import annotations

import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from analysis.metrics import MEASURES, METRICS, Metric
from analysis.published.claim_list import load_checks
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from tests.benchmarks.scaling import MOST_TABLE_SECONDS, ROOT, verdict

NUM_RUNS = 10_000
GRID = "lemoe_lora"  # 896 arms at the published size
MOST_CLAIMS_SECONDS = MOST_PAGE_SECONDS = 20.0
_MOMENTS = ("before", "immediate", "final")
# What else a real run bears, whose values no table shows.
_FURTHER_TAGS = {
    **{"method_config": "x" * 500, "tokenizer": "x" * 60, "host": "host", "mlflow.runName": "x"},
    **{f"{name}_version": "1.2.3" for name in ("python", "ray", "torch", "transformers")},
}
_TAGS = {
    **{"status": "finished", "stop_reason": "completed", "fidelity": "1", "error": ""},
    **{"backbone_fingerprint": "b", "dataset_digest": "d", "dataset_part": "report"},
    **{"target_field": "target_new", "device": "cpu", "micro_batch": "whole", "dtype": "float32"},
    **{"commit": "0123456789abcdef", "is_dirty": "false", "source_hash": "s", "packages": "p"},
}


def reports() -> None:
    """Seconds and memory of a table of one grid, of all claims, and of the page of such a grid."""
    claimed = tuple(dict.fromkeys(check.ablation for check in load_checks()))
    for name, ablations, scale, command, most in (
        ("table", (GRID,), "paper", ["table.py", "lemoe_table9"], MOST_TABLE_SECONDS),
        ("claims", claimed, "quick", ["claims.py"], MOST_CLAIMS_SECONDS),
        ("page", (GRID,), "paper", ["report.py"], MOST_PAGE_SECONDS),
    ):
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder)
            num_arms = fill(store, ablations, scale, NUM_RUNS)
            spent = _spent([*command, f"store={store}"])
        print(
            f"{name}: {NUM_RUNS} runs of {num_arms} arms, wall {spent.wall:.1f} s, demand <= "
            f"{most:g}: {verdict(spent.wall <= most)}; CPU {spent.user:.1f} + "
            f"{spent.system:.1f} s; most memory so far {spent.gib:.2f} GiB",
            flush=True,
        )


def fill(store: Path, ablations: Sequence[str], scale: str, num_runs: int) -> int:
    """Write a ledger and an MLflow database of `num_runs` runs into an empty folder.

    Runs are those of the ablations' plans, with as many seeds as it takes; scores are drawn. There
    are no per-record results.

    Returns:
        The number of arms.
    """
    arms = [
        (trial, planned.config.paper)
        for name in ablations
        for planned in [
            plan.expand(config.load([f"ablation={name}", f"scale={scale}", "seeds=[0]"]))
        ]
        for trial in planned.trials
    ]
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    ids = {name: client.create_experiment(name) for name in ablations}
    generator = random.Random(0)
    (store / "ledger").mkdir()
    with (
        (store / "ledger" / "driver.jsonl").open("w") as ledger,
        sqlite3.connect(store / "mlflow.db") as database,
    ):
        for number, seed, (trial, papers) in _repeated(arms, num_runs):
            run_id, values = f"{number:032x}", trial.to_dict()
            metrics = _metrics(generator)
            database.execute(
                "INSERT INTO runs (run_uuid, start_time, artifact_uri, experiment_id, status, "
                "lifecycle_stage) VALUES (?, ?, ?, ?, 'FINISHED', 'active')",
                (run_id, number, f"file:///none/{run_id}", int(ids[trial.ablation])),
            )
            tags = _tags(values, seed, papers, scale) | {
                "fingerprint": run_id,
                "ledger_row": run_id,
            }
            database.executemany(
                "INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)",
                [(run_id, *pair) for pair in tags.items()],
            )
            database.executemany(
                "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) "
                "VALUES (?, ?, ?, 0, 0, 0)",
                [(run_id, *pair) for pair in metrics.items()],
            )
            end = {"event": "end", "fingerprint": run_id, "time": number, "row_id": run_id}
            end |= {"metrics": metrics, "spec": values}
            ledger.write(json.dumps(end, separators=(",", ":")) + "\n")
    return len(arms)


def _repeated(arms: Sequence[Any], num_runs: int) -> Iterator[tuple[int, int, Any]]:
    """Number of the run, seed and arm: all arms with seed 0, then with seed 1, and so on."""
    number = count()
    while True:
        for arm in arms:
            if (here := next(number)) >= num_runs:
                return
            yield here, here // len(arms), arm


def _tags(
    values: Mapping[str, Any], seed: int, papers: Sequence[str], scale: str
) -> dict[str, str]:
    method, backbone, dataset = (values[key] for key in ("method", "backbone", "dataset"))
    dumped = {key: json.dumps(values[key]) for key in ("protocol", "swept", "published")}
    return {
        **_TAGS,
        **_FURTHER_TAGS,
        **dumped,
        **{key: str(values[key]) for key in ("ablation", "arm")},
        "arm_fingerprint": f"{values['ablation']} {values['arm']}",
        "seed": str(seed),
        "method": method["name"],
        "module": str(method.get("module", method["name"])),
        "paper": ", ".join(papers),
        "scale": scale,
        "backbone": backbone["name"],
        "num_layers": str(backbone["num_layers"]),
        "hidden_size": str(backbone["hidden_size"]),
        "dataset": dataset["name"],
    }


def _metrics(generator: random.Random) -> dict[str, float]:
    """Every declared metric that a trial may report, in all measures and at all moments."""
    names = [name for metric in METRICS.values() for name in _logged(metric)]
    return {name: generator.random() for name in names}


def _logged(metric: Metric) -> Iterator[str]:
    if metric.mean_of or metric.one_of or metric.name.startswith(("perplexity", "number")):
        return
    if metric.per == "trial":
        yield metric.name.replace("*", "excluded")
        return
    for when in _MOMENTS:
        if when in metric.moments:
            yield from (f"{metric.name}.{measure}.{when}" for measure in MEASURES)


@dataclass(frozen=True)
class _Spent:
    wall: float
    user: float
    system: float
    gib: float


def _spent(words: Sequence[str]) -> _Spent:
    """What one command of `analysis` takes, its start included."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, str(ROOT / "analysis" / words[0]), *words[1:]]
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return _Spent(wall, user, system, after.ru_maxrss / 2**20)  # Linux counts in KiB
