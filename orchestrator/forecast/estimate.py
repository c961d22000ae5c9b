"""Forecasts a plan's time, memory and GPU-hours, from earlier trials or by counting; pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Protocol

from orchestrator.forecast.costs import Work, work, work_asked, work_once
from orchestrator.forecast.edit_counts import num_batches
from orchestrator.forecast.placement import memory_gib, placement, resources
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.sharing import AS_FITS, Sharing

# One thread of a present-day server, float32: matrix products of a model's sizes, with what stands
# between them.
CPU_FLOPS = 5e10
GPU_FLOPS = 4e13
# What an optimiser moves in a second: of one thread, of a GPU.
CPU_BYTES, GPU_BYTES = 5e9, 5e11
# What one thread takes however narrow the backbone is: to call a layer, and for what an optimiser
# step does beside the layers (from the steps that `make bench` prints).
SECONDS_PER_LAYER_CALL = 5e-4
SECONDS_PER_STEP = 3e-3
SECONDS_PER_TRIAL = 0.1  # hand-over, order, rows
DRIVER_SECONDS = 0.012  # of the driver per result: Ray, ledger, the pipe to what writes into MLflow
START_SECONDS = 15.0  # of an actor: process, imports, backbone

_ALIKE = 1.1  # rough forecasts within this factor count as equally near

Traits = tuple[object, ...]


class PastTrial(Protocol):
    """The end of an earlier trial as far as a forecast reads it; `EndRow` has these fields."""

    @property
    def status(self) -> str:
        """How it ended; only `finished` trials are used."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def gpu(self) -> str:
        """Name of its GPU; empty on a CPU."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Numbers that it reported."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """`TrialSpec.to_dict()`."""


@dataclass(frozen=True)
class Forecast:
    """The forecast of a whole plan.

    Attributes:
        wall_seconds: Time with `workers` trials at a time, including the start of Ray and its
            actors; each trial has a CPU to itself as long as there are enough.
        cpu_seconds: Sum over trials of seconds times CPUs, and what is made once for all of them.
        gpu_hours: Sum over trials of hours times share of a GPU.
        memory_gib: Memory of all trials that run at a time.
        num_measured: Trials whose time is taken from earlier ones.
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
    """Time and share of the machine of one trial, and whether its time is from earlier trials."""

    seconds: float
    cpus: float
    gpus: float
    is_measured: bool


def forecast(
    specs: Sequence[TrialSpec],
    ends: Iterable[PastTrial],
    *,
    workers: int,
    cpu_flops: float = CPU_FLOPS,
    gpu_flops: float = GPU_FLOPS,
    sharing: Sharing = AS_FITS,
    cpus: float | None = None,
    is_search: bool = False,
) -> Forecast:
    """What `specs` will take, `workers` at a time, if the scheduler stops none of them.

    Args:
        specs: Trials to run.
        ends: End rows of the ledger.
        workers: Trials at a time, at least 1.
        cpu_flops: Operations per second of one CPU, assumed or measured.
        gpu_flops: Operations per second of one GPU.
        sharing: How trials use GPUs.
        cpus: CPUs of the machine; None: at least `workers`.
        is_search: Whether each of `specs` stands for one with settings of its own.
    """
    trials = forecast_trials(specs, ends, cpu_flops=cpu_flops, gpu_flops=gpu_flops, sharing=sharing)
    once = once_seconds(
        specs, cpu_flops=cpu_flops, gpu_flops=gpu_flops, sharing=sharing, is_search=is_search
    )
    at_a_time = max(1, min(workers, len(specs)))
    given = at_a_time if cpus is None else max(1.0, min(at_a_time, cpus))
    seconds = sum(trial.seconds for trial in trials)
    # Where rows are many, they are cut to what a GPU holds.
    limits = (trial.gpus * sharing.gpu_gib or math.inf for trial in trials)
    memory = (min(memory_gib(spec), most) for spec, most in zip(specs, limits, strict=True))
    return Forecast(
        len(trials),
        (START_SECONDS if trials else 0.0) + once + seconds / given,
        once + sum(trial.seconds * trial.cpus for trial in trials),
        sum(trial.seconds * trial.gpus for trial in trials) / 3600,
        max(memory, default=0.0) * at_a_time,
        sum(trial.is_measured for trial in trials),
    )


def forecast_trials(
    specs: Sequence[TrialSpec],
    ends: Iterable[PastTrial],
    *,
    cpu_flops: float = CPU_FLOPS,
    gpu_flops: float = GPU_FLOPS,
    sharing: Sharing = AS_FITS,
) -> list[TrialForecast]:
    """The forecast of each trial; for the arguments see `forecast`."""
    past = _earlier_trials(ends, specs, cpu_flops, gpu_flops)
    made = []
    for spec in specs:
        need = placement(spec, None, sharing)
        rough = _seconds(work(spec), cpu_flops, gpu_flops, is_gpu=need.gpu > 0)
        earlier = past.get(_traits(spec))
        seconds = rough if earlier is None else _scaled(rough, earlier)
        made.append(TrialForecast(seconds, need.cpus, need.gpus, earlier is not None))
    return made


def rough_seconds(spec: TrialSpec, flops_per_second: float) -> float:
    """Seconds of a trial on a CPU by counting alone, without what is stored for all trials."""
    return _seconds(work(spec), flops_per_second, GPU_FLOPS, is_gpu=False)


def once_seconds(
    specs: Sequence[TrialSpec],
    *,
    cpu_flops: float = CPU_FLOPS,
    gpu_flops: float = GPU_FLOPS,
    sharing: Sharing = AS_FITS,
    is_search: bool = False,
) -> float:
    """Seconds for what the first trial of its kind makes and stores: covariances, networks, ranks.

    It counts these even if a cache has them already. `is_search` as in `forecast`.
    """
    total, made = 0.0, set[str]()
    for number, spec in enumerate(specs):
        needed = work_once(spec)
        method = spec.method
        network = _network(spec, number if is_search else None)
        key = repr((method["module"], method.get("layers"), _shape(spec), needed, network))
        asked = work_asked(spec)  # of the unedited backbone, whatever edits it
        for what, each in ((key, needed), (repr((_shape(spec), asked)), asked)):
            if what not in made and each.operations:
                made.add(what)
                is_gpu = placement(spec, None, sharing).gpu > 0
                total += _seconds(each, cpu_flops, gpu_flops, is_gpu=is_gpu) - SECONDS_PER_TRIAL
    return total


def _network(spec: TrialSpec, number: int | None) -> object:
    """What decides a trained network besides its size, None where none is trained.

    That is all settings and the data. Of the part `tune` alone its records are those that a trial
    leaves, so that each draw has a network of its own; so has trial `number` of a search.
    """
    if spec.cost.get("trains") not in ("networks", "small_model"):
        return None
    draw = None if spec.dataset.get("part") == "report" else (spec.seed, spec.protocol)
    return spec.method, spec.dataset, draw, number


def _seconds(needed: Work, cpu_flops: float, gpu_flops: float, *, is_gpu: bool) -> float:
    """Seconds of matrix products, of the optimiser's moves, and of calls whatever their size."""
    flops, moved = (gpu_flops, GPU_BYTES) if is_gpu else (cpu_flops, CPU_BYTES)
    calls = needed.layer_calls * SECONDS_PER_LAYER_CALL + needed.steps * SECONDS_PER_STEP
    return needed.operations / flops + needed.bytes_moved / moved + calls + SECONDS_PER_TRIAL


def _earlier_trials(
    ends: Iterable[PastTrial],
    specs: Sequence[TrialSpec],
    cpu_flops: float,
    gpu_flops: float,
) -> dict[Traits, list[tuple[float, float]]]:
    """(rough seconds, measured seconds) of the trials that finished, by `_traits`.

    A row does not say what its method costs, so the cost is taken from the plan's same method.
    """
    costs = {_traits(spec): spec.cost for spec in specs}
    past: dict[Traits, list[tuple[float, float]]] = defaultdict(list)
    for row in ends:
        if row.status != "finished" or not row.spec or not row.seconds:
            continue
        spec = TrialSpec.from_dict(row.spec)
        if (traits := _traits(spec)) not in costs:
            continue
        spec = replace(spec, cost=costs[traits])
        is_gpu = resources(spec)["gpu"] > 0
        rough = _seconds(work(spec), cpu_flops, gpu_flops, is_gpu=is_gpu)
        past[traits].append((rough, _own_seconds(row)))
    return past


def _own_seconds(row: PastTrial) -> float:
    """Seconds that a trial needed by itself: CPU-seconds, or wall time on a GPU.

    On a shared CPU the wall time grows, not the CPU-seconds. A proportion is taken off for what the
    process did only once (imports, backbone, pre-edit answers).
    """
    metrics, wall = row.metrics, row.seconds
    taken = wall if row.gpu else float(metrics.get("cpu_seconds") or wall)
    if "edit_seconds" not in metrics or "evaluation_seconds" not in metrics:
        return taken
    own = float(metrics["edit_seconds"]) + float(metrics["evaluation_seconds"])
    return min(1.0, own / wall) * taken + SECONDS_PER_TRIAL


def _traits(spec: TrialSpec) -> Traits:
    """What two trials must have in common for their times to be comparable.

    Numbers such as edits, steps, layers and ranks may differ, because the count of operations shows
    their cost; choices, such as a kind of expert or a term of a loss, may not.
    """
    choices = {
        key: value
        for key, value in spec.method.items()
        if key != "name" and isinstance(value, str | bool | None)
    }
    protocol = spec.protocol
    return (
        repr(sorted(choices.items())),
        _shape(spec),
        str(spec.dataset.get("name")),
        num_batches(protocol) > 1 and protocol["kind"],
        bool(protocol.get("curve")),
        bool(protocol.get("generate")),
        repr(spec.evaluate.get("ability")),
    )


def _shape(spec: TrialSpec) -> str:
    """Name, sizes and dtype of a backbone; two folders of one name may hold different ones."""
    keys = ("name", "family", "num_layers", "hidden_size", "ffn_size", "dtype")
    return repr([spec.backbone.get(key) for key in keys])


def _scaled(rough: float, earlier: Sequence[tuple[float, float]]) -> float:
    """Median over the trials with the rough forecast nearest to `rough`, scaled to `rough`."""
    nearest = min(abs(math.log(rough / other)) for other, _ in earlier)
    chosen = [
        (other, seconds)
        for other, seconds in earlier
        if abs(math.log(rough / other)) <= nearest + math.log(_ALIKE)
    ]
    return rough * median(seconds / other for other, seconds in chosen)
