"""Forecast of a plan's time, memory and GPU-hours, from earlier trials or by count; pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from orchestrator.placement import (
    AS_FITS,
    Sharing,
    layer_parameters,
    memory_gib,
    placement,
    resources,
)
from orchestrator.specs import TrialSpec

# One thread of a present-day server, float32 training steps of small models.
CPU_FLOPS = 5e10
GPU_FLOPS = 4e13
TOKENS_PER_PROMPT = 15
# Prompts scored per edit: itself, a rephrase, three of locality, each before and after.
PROMPTS_PER_EDIT = 10
# What one thread takes however narrow the backbone is: to call a layer, and for what an optimiser
# step does beside the layers (from the steps that `make bench` prints).
SECONDS_PER_LAYER_CALL = 7e-4
SECONDS_PER_STEP = 5e-3
SECONDS_PER_TRIAL = 0.5  # hand-over, order, rows
DRIVER_SECONDS = 0.05  # of the driver per result: Ray, ledger and hand-over to MLflow (make bench)
START_SECONDS = 15.0  # of an actor: process, imports, backbone

_ALIKE = 1.1  # rough forecasts within this factor count as equally near

Kin = tuple[str, str, bool]  # module, backbone, whether a curve is measured


@dataclass(frozen=True)
class Forecast:
    """What a plan will take.

    Attributes:
        wall_seconds: With `workers` trials at a time, the start of Ray and its actors included.
        cpu_seconds: Sum over trials of seconds times CPUs.
        gpu_hours: Sum over trials of hours times share of a GPU.
        memory_gib: Of all trials that run at a time.
        num_measured: Trials whose time stems from earlier ones.
    """

    num_trials: int
    wall_seconds: float
    cpu_seconds: float
    gpu_hours: float
    memory_gib: float
    num_measured: int

    @property
    def is_rough(self) -> bool:
        """True when some trial's time is only a count of operations."""
        return self.num_measured < self.num_trials


@dataclass(frozen=True)
class TrialForecast:
    """Seconds of one trial, its share of the machine, and whether earlier trials say so."""

    seconds: float
    cpus: float
    gpus: float
    is_measured: bool


def forecast(
    specs: Sequence[TrialSpec],
    ends: Iterable[Mapping[str, Any]],
    *,
    workers: int,
    cpu_flops: float = CPU_FLOPS,
    gpu_flops: float = GPU_FLOPS,
    sharing: Sharing = AS_FITS,
) -> Forecast:
    """What `specs` will take, `workers` at a time, if the scheduler stops none of them.

    Args:
        specs: Trials to run.
        ends: End rows of the ledger.
        workers: Trials at a time, at least 1.
        cpu_flops: Operations per second of one CPU, assumed or measured.
        gpu_flops: Operations per second of one GPU.
        sharing: How trials use GPUs.
    """
    trials = forecast_trials(specs, ends, cpu_flops=cpu_flops, gpu_flops=gpu_flops, sharing=sharing)
    at_a_time = max(1, min(workers, len(specs)))
    return Forecast(
        len(trials),
        (START_SECONDS if trials else 0.0) + sum(trial.seconds for trial in trials) / at_a_time,
        sum(trial.seconds * trial.cpus for trial in trials),
        sum(trial.seconds * trial.gpus for trial in trials) / 3600,
        max((memory_gib(spec) for spec in specs), default=0.0) * at_a_time,
        sum(trial.is_measured for trial in trials),
    )


def forecast_trials(
    specs: Sequence[TrialSpec],
    ends: Iterable[Mapping[str, Any]],
    *,
    cpu_flops: float = CPU_FLOPS,
    gpu_flops: float = GPU_FLOPS,
    sharing: Sharing = AS_FITS,
) -> list[TrialForecast]:
    """What each trial will take; arguments as of `forecast`."""
    past = _past(ends, cpu_flops, gpu_flops)
    made = []
    for spec in specs:
        need = placement(spec, None, sharing)
        rough = rough_seconds(spec, gpu_flops if need.gpu else cpu_flops)
        earlier = past.get(_kin(spec))
        seconds = rough if earlier is None else _scaled(rough, earlier)
        made.append(TrialForecast(seconds, need.cpus, need.gpus, earlier is not None))
    return made


def rough_seconds(spec: TrialSpec, flops_per_second: float) -> float:
    """Seconds of a trial: 4 operations per parameter and token when training, 2 when reading.

    Training passes the layers from the lowest edited one up, forwards and back to the activations,
    as their weights are frozen; every prompt is read through all layers.
    """
    backbone, method, protocol = spec.backbone, spec.method, spec.protocol
    edits, batches = _num_edits(protocol), _num_batches(protocol)
    depth = int(backbone["num_layers"])
    edited = [method.get("edit_layer"), *(method.get("layers") or [])]
    above = depth - min((layer for layer in edited if layer is not None), default=depth)
    steps = max((int(method[key] or 0) for key in method if key.endswith("num_steps")), default=0)
    tokens = edits * TOKENS_PER_PROMPT
    prompts = PROMPTS_PER_EDIT
    if protocol.get("curve"):
        prompts += (batches + 1) // 2  # each edit again after every later batch
    operations = tokens * layer_parameters(backbone) * (4 * above * steps + 2 * depth * prompts)
    # forward and back through the layers above in each step; prompts are read 16 at a time
    calls = 2 * above * steps * batches + depth * prompts * edits / 16
    narrow = calls * SECONDS_PER_LAYER_CALL + steps * batches * SECONDS_PER_STEP
    return operations / flops_per_second + narrow + SECONDS_PER_TRIAL


def _past(
    ends: Iterable[Mapping[str, Any]], cpu_flops: float, gpu_flops: float
) -> dict[Kin, list[tuple[float, float]]]:
    """(rough seconds, seconds) of the trials that ran to their end, by what they have in common."""
    past: dict[Kin, list[tuple[float, float]]] = defaultdict(list)
    for row in ends:
        if row.get("status") == "finished" and row.get("spec") and row.get("seconds"):
            spec = TrialSpec.from_dict(row["spec"])
            flops = gpu_flops if resources(spec)["gpu"] else cpu_flops
            past[_kin(spec)].append((rough_seconds(spec, flops), _own_seconds(row)))
    return past


def _own_seconds(row: Mapping[str, Any]) -> float:
    """Seconds of a trial without what its process did once: imports, backbone, pre-edit answers."""
    metrics = row.get("metrics") or {}
    if "edit_seconds" not in metrics or "evaluation_seconds" not in metrics:
        return float(row["seconds"])
    own = float(metrics["edit_seconds"]) + float(metrics["evaluation_seconds"])
    return min(own + SECONDS_PER_TRIAL, float(row["seconds"]))


def _kin(spec: TrialSpec) -> Kin:
    """What trials have in common whose times are comparable."""
    return (
        str(spec.method["module"]),
        str(spec.backbone["name"]),
        bool(spec.protocol.get("curve")),
    )


def _scaled(rough: float, earlier: Sequence[tuple[float, float]]) -> float:
    """Median of the trials whose rough forecast is nearest to `rough`, in proportion to it."""
    nearest = min(abs(math.log(rough / other)) for other, _ in earlier)
    chosen = [
        (other, seconds)
        for other, seconds in earlier
        if abs(math.log(rough / other)) <= nearest + math.log(_ALIKE)
    ]
    return rough * median(seconds / other for other, seconds in chosen)


def _num_edits(protocol: Mapping[str, Any]) -> int:
    """Edits of one trial in all."""
    repeats = _num_batches(protocol) if protocol["kind"] == "batch" else 1
    return int(protocol["num_edits"]) * repeats


def _num_batches(protocol: Mapping[str, Any]) -> int:
    return int(protocol.get("num_batches") or 1)
