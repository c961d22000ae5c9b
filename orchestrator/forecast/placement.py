"""How many CPUs and GPUs a trial needs, with how many rows, and if a cluster has them; pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.forecast.memory import PROCESS_GIB, Memory, memory
from orchestrator.forecast.shape import Shape
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.sharing import AS_FITS, GPU_GIB, Parallel, Sharing

# Of weights: above this a CPU trial would take hours; below the other, one core is faster than the
# way to a GPU.
NEEDS_GPU_GIB = 3.4
WORTH_GPU_GIB = 0.4
# Of the memory that a card is sold with its driver leaves so much: 23.69 of 24 GiB, 79.2 of 80.
USABLE = 0.98
# A GPU is large enough for a trial of which it can run so many rows at a time, or half of them all;
# with fewer it would mostly read weights.
LEAST_ROWS = 8
MOST_PER_GPU = 50  # Ray counts in ten-thousandths: from 100 on, rounding would let in one too many
_RANKS = 2  # processes of `data`, where no number is given


@dataclass(frozen=True)
class Placement:
    """The resources of one trial: `num_bundles` times `cpu` and `gpu`, each within one node."""

    parallel: Parallel
    cpu: float
    gpu: float
    num_bundles: int = 1

    @property
    def cpus(self) -> float:
        """CPUs of all bundles."""
        return self.cpu * self.num_bundles

    @property
    def gpus(self) -> float:
        """GPUs of all bundles."""
        return self.gpu * self.num_bundles


def memory_gib(spec: TrialSpec) -> float:
    """Peak memory of one trial with all its rows at a time, GiB; see `memory.memory`."""
    return memory(spec).peak_gib


def least_gib(spec: TrialSpec) -> float:
    """Memory below which a GPU is too small for a trial, GiB."""
    return memory(spec).with_rows(LEAST_ROWS)


def beside_gib(specs: Iterable[TrialSpec]) -> float:
    """Most that a trial holds beside its process and the weights, however few rows run, GiB.

    Where layers lie on several GPUs all of it lies with the edited ones.
    """
    return max(_beside_gib(spec) for spec in specs)


def _beside_gib(spec: TrialSpec) -> float:
    fixed = max(stage.fixed_gib for stage in memory(spec).stages)
    return max(0.0, fixed - PROCESS_GIB - _weights_gib(spec))


def _own_gib(spec: TrialSpec) -> float:
    """What a trial needs beside process and weights, which those of a pack share."""
    return max(memory_gib(spec) - PROCESS_GIB - _weights_gib(spec), 0.01)


def _weights_gib(spec: TrialSpec) -> float:
    return float(spec.backbone.get("memory_gib") or Shape.of_backbone(spec.backbone).weights_gib)


def rows_within(need: Memory, gib: float) -> int | None:
    """Rows at a time with so much memory; None: as many as there are; 0: too few to be of use."""
    if need.peak_gib <= gib:
        return None
    rows = math.floor(need.rows_within(gib))
    return rows if rows >= LEAST_ROWS or 2 * rows >= max(2, need.rows) else 0


def trials_per_gpu(need: Memory, gpu_gib: float) -> int:
    """Trials, each with all its rows at a time, that share a GPU sold with so much memory."""
    return min(MOST_PER_GPU, math.floor(USABLE * gpu_gib / need.peak_gib))


def gpus_for(need: Memory, gpu_gib: float) -> int:
    """GPUs over which the layers of one trial are spread; each has a context of its own."""
    least = need.with_rows(LEAST_ROWS) - PROCESS_GIB
    return max(1, math.ceil(least / (USABLE * gpu_gib - PROCESS_GIB)))


def resources(
    spec: TrialSpec, cluster: Mapping[str, float] | None = None, gpu_gib: float = GPU_GIB
) -> dict[str, float]:
    """`{"cpu": ..., "gpu": ...}` of one trial; a fraction of a GPU if several trials fit on it.

    Args:
        spec: The trial.
        cluster: What `ray.cluster_resources()` reports, if known: small backbones use a GPU only
            where there is one.
        gpu_gib: Memory of one GPU.
    """
    has_gpu = bool(cluster and cluster.get("GPU", 0) > 0)
    if _weights_gib(spec) <= (WORTH_GPU_GIB if has_gpu else NEEDS_GPU_GIB):
        return {"cpu": 1.0, "gpu": 0.0}
    need = memory(spec)
    if per_gpu := trials_per_gpu(need, gpu_gib):
        # rounded down: n shares must not add up to more than one GPU
        return {"cpu": 1.0, "gpu": math.floor(1e4 / per_gpu) / 1e4}
    fits = rows_within(need, USABLE * gpu_gib) != 0
    return {"cpu": 1.0, "gpu": 1.0 if fits else float(max(2, gpus_for(need, gpu_gib)))}


@dataclass(frozen=True)
class Supply:
    """The resources that a cluster has, or can have when its autoscaler has added all it may.

    Attributes:
        total: Resources of all nodes together, as `ray.cluster_resources()` names them.
        nodes: Resources of each single node, the most that one process can get; one node of each
            type that the autoscaler may add.
    """

    total: Mapping[str, float]
    nodes: tuple[Mapping[str, float], ...] = ()


def attainable(nodes: Sequence[Mapping[str, float]], scaling: Mapping[str, Any]) -> Supply:
    """The supply of a cluster whose autoscaler may still add workers.

    Args:
        nodes: Resources of every present node, the head included.
        scaling: The cluster launcher's file on the head; empty if no autoscaler runs.
    """
    head = scaling.get("head_node_type")
    types = scaling.get("available_node_types") or {}
    addable = {
        name: {kind: float(count) for kind, count in (each.get("resources") or {}).items()}
        for name, each in types.items()
        if name != head and _max_workers(each, scaling) > 0
    }
    there: dict[str, float] = {}
    for node in nodes:
        for kind, count in node.items():
            there[kind] = there.get(kind, 0.0) + count
    kinds = {kind for each in addable.values() for kind in each}
    of_head = (types.get(head) or {}).get("resources") or {}
    for kind in kinds:
        # The most of this kind, if the workers that may run at a time are of its richest types.
        left, most = int(scaling.get("max_workers") or 0), float(of_head.get(kind, 0))
        for name in sorted(addable, key=lambda name: -addable[name].get(kind, 0.0)):
            added = min(left, _max_workers(types[name], scaling))
            most, left = most + added * addable[name].get(kind, 0.0), left - added
        there[kind] = max(there.get(kind, 0.0), most)
    return Supply(there, (*nodes, *addable.values()))


def _max_workers(node_type: Mapping[str, Any], scaling: Mapping[str, Any]) -> int:
    """Most nodes of one type: its own limit, or else the whole cluster's, as in Ray."""
    stated = node_type.get("max_workers")
    return int(scaling.get("max_workers") or 0) if stated is None else int(stated)


def placement(
    spec: TrialSpec, cluster: Mapping[str, float] | None = None, sharing: Sharing = AS_FITS
) -> Placement:
    """The resources that one trial asks for.

    Args:
        spec: The trial.
        cluster: See `resources`.
        sharing: How trials may use GPUs.

    Raises:
        UsageError: If `data` is asked for and one process does not fit on one GPU, or a number of
            GPUs is given that nothing uses.
    """
    plain = resources(spec, cluster, sharing.gpu_gib)
    count, fits = sharing.gpus_per_trial, plain["gpu"] <= 1
    if sharing.parallel == "data":
        if not fits:
            raise UsageError(
                f"parallel=data: backbone={spec.backbone['name']} needs {least_gib(spec):.1f} GiB "
                f"in each process, a GPU has {sharing.gpu_gib:g} GiB; use parallel=shard"
            )
        # A GPU of its own for each: on one of them together they would gain nothing.
        return Placement("data", plain["cpu"], float(math.ceil(plain["gpu"])), count or _RANKS)
    if sharing.parallel == "shard" or (sharing.parallel is None and not fits):
        gpus = count or math.ceil(plain["gpu"])
        return Placement("shard", plain["cpu"], float(gpus))
    if count is not None:
        raise UsageError(
            f"gpus_per_trial={count}: needs parallel=shard or parallel=data; "
            f"backbone={spec.backbone['name']} fits on one GPU"
        )
    return Placement("none", plain["cpu"], min(plain["gpu"], 1.0))


def widest(placements: Iterable[Placement]) -> Placement:
    """A placement that is enough for each of the given ones, which are at least one."""
    each = list(placements)
    rank: tuple[Parallel, ...] = ("none", "shard", "data")
    return Placement(
        max((one.parallel for one in each), key=rank.index),
        max(one.cpu for one in each),
        max(one.gpu for one in each),
        max(one.num_bundles for one in each),
    )


def rows_at_a_time(
    specs: Iterable[TrialSpec], need: Placement, sharing: Sharing = AS_FITS
) -> dict[tuple[str, str], int]:
    """Rows at a time with which trials start whose rows do not all fit into their part of a GPU.

    Running out of memory would halve them, too, and each time some steps would be lost. Trials that
    divide their rows among processes are left out, and those that do not fit in any case.

    Args:
        specs: The trials.
        need: The resources of each.
        sharing: How trials use GPUs.

    Returns:
        By names of backbone and method; where several trials have both, the least.
    """
    if not need.gpu or need.parallel == "data":
        return {}
    part = USABLE * sharing.gpu_gib * need.gpu - PROCESS_GIB * max(0.0, need.gpu - 1)
    found: dict[tuple[str, str], int] = {}
    for spec in specs:
        if rows := rows_within(memory(spec), part):
            key = str(spec.backbone["name"]), str(spec.method["name"])
            found[key] = min(rows, found.get(key, rows))
    return found


def at_a_time(
    need: Placement,
    specs: Iterable[TrialSpec],
    cluster_resources: Mapping[str, float],
    pack: int = 1,
) -> int:
    """How many trials a cluster can run at a time, by CPUs and, without GPUs, by memory.

    Ray counts the GPUs itself. Memory is what the largest trial needs, in each of its processes.

    Args:
        need: The resources of each trial.
        specs: The trials; at least one.
        cluster_resources: Resources of all nodes together.
        pack: Trials that a process trains together.
    """
    by_cpus = int(cluster_resources["CPU"] // need.cpus)
    memory = cluster_resources.get("memory")
    if need.gpu or memory is None:
        return max(1, by_cpus)
    largest = max(specs, key=memory_gib)
    gib = (memory_gib(largest) + (pack - 1) * _own_gib(largest)) * need.num_bundles
    return max(1, min(by_cpus, int(memory / 2**30 // gib)))


def packs_within(
    specs: Iterable[TrialSpec], num_processes: int, cluster_resources: Mapping[str, float]
) -> int:
    """Trials, at least one, that each of so many processes may train together, by host memory.

    They share process and weights. On a cluster whose memory is not known there is no limit.

    Args:
        specs: The trials; at least one.
        num_processes: That run at a time.
        cluster_resources: Resources of all nodes together.
    """
    memory = cluster_resources.get("memory")
    if memory is None:
        return sys.maxsize
    largest = max(specs, key=memory_gib)
    left = memory / 2**30 / num_processes - memory_gib(largest)
    return 1 + max(0, int(left // _own_gib(largest)))


def placement_lines(specs: Iterable[TrialSpec], sharing: Sharing) -> list[str]:
    """A line for each backbone whose trials take several GPUs or processes, with the reason."""
    lines = {}
    for spec in specs:
        found, name = placement(spec, None, sharing), spec.backbone["name"]
        if found.parallel == "data":
            device = "GPUs" if found.gpu else "CPUs"
            lines[name] = f"{name}: the rows of a trial over {found.num_bundles} {device}"
        elif found.parallel == "shard":
            why = f"{least_gib(spec):.1f} GiB, a GPU has {sharing.gpu_gib:g} GiB"
            lines[name] = f"{name}: the layers of a trial over {found.gpu:g} GPUs ({why})"
    return [f"parallel={'data' if 'rows' in line else 'shard'}, {line}" for line in lines.values()]


def preflight(
    spec: TrialSpec,
    cluster_resources: Mapping[str, float],
    sharing: Sharing = AS_FITS,
    nodes: Sequence[Mapping[str, float]] = (),
) -> None:
    """Checks that the cluster can ever run the trial; if not, Ray would wait for ever in silence.

    Args:
        spec: The trial.
        cluster_resources: Resources of all nodes, with those that an autoscaler may add.
        sharing: How trials may use GPUs.
        nodes: Resources of each single node; empty if not known.

    Raises:
        UsageError: If it cannot; the message says what the trial needs and what there is.
    """
    need = placement(spec, cluster_resources, sharing)
    name = spec.backbone["name"]
    for label, needed in (("CPU", need.cpus), ("GPU", need.gpus)):
        there = float(cluster_resources.get(label, 0))
        if needed > there:
            raise UsageError(
                f"backbone={name} needs {needed:g} {label} per trial "
                f"({least_gib(spec):.1f} GiB); the cluster has {there:g} {label}"
            )
    fits = any(node.get("CPU", 0) >= need.cpu and node.get("GPU", 0) >= need.gpu for node in nodes)
    if nodes and not fits:
        sizes = {f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes}
        raise UsageError(
            f"backbone={name} needs {need.cpu:g} CPU and {need.gpu:g} GPU on one node "
            f"({least_gib(spec):.1f} GiB); "
            f"the nodes that are there or may be added have {'; '.join(sorted(sizes))}"
        )
    memory = cluster_resources.get("memory")
    if not need.gpu and memory is not None:
        gib = memory_gib(spec) * need.num_bundles
        if gib > memory / 2**30:
            raise UsageError(
                f"backbone={name} needs {gib:.1f} GiB of memory per trial; "
                f"the cluster has {memory / 2**30:.1f} GiB"
            )
