"""Memory need of a trial -> CPUs and GPUs, and whether a cluster can ever give them; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.specs import TrialSpec

GPU_GIB = 24.0  # the RTX 3090 on which LEMoE was measured; larger cards only fit more trials
# Above this a CPU trial would take hours; below the other, one core is faster than the way to a
# GPU.
NEEDS_GPU_GIB = 4.0
WORTH_GPU_GIB = 0.5
MOST_PER_GPU = 50  # Ray counts in ten-thousandths: from 100 on, rounding would let in one too many
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_GATED = ("llama", "mistral", "qwen2")
_VOCABULARY = 32_000  # where only a shape is known
_SLACK = 1.2  # activations, gradients and the editor's own weights beside the backbone's


def layer_parameters(backbone: Mapping[str, Any]) -> int:
    """Parameters of one decoder layer: 4 attention matrices and 2, with a gate 3, of the FFN."""
    width, ffn = int(backbone["hidden_size"]), int(backbone["ffn_size"])
    return 4 * width * width + (3 if backbone.get("family") in _GATED else 2) * width * ffn


def num_parameters(backbone: Mapping[str, Any]) -> int:
    """Parameters as stated, else of all layers and one embedding."""
    if stated := backbone.get("num_parameters"):
        return int(stated)
    vocabulary = int(backbone.get("vocabulary_size") or _VOCABULARY)
    layers = int(backbone["num_layers"]) * layer_parameters(backbone)
    return layers + vocabulary * int(backbone["hidden_size"])


def memory_gib(spec: TrialSpec) -> float:
    """Peak memory of one trial, GiB: as the backbone states, else weights and a fifth more."""
    backbone = spec.backbone
    if stated := backbone.get("memory_gib"):
        return float(stated)
    if weights := backbone.get("weights_gib"):
        return float(weights) * _SLACK
    return num_parameters(backbone) * _BYTES[backbone.get("dtype") or "float32"] * _SLACK / 2**30


def resources(
    spec: TrialSpec, cluster: Mapping[str, float] | None = None, gpu_gib: float = GPU_GIB
) -> dict[str, float]:
    """`{"cpu": ..., "gpu": ...}` of one trial; a fraction of a GPU where several trials fit on it.

    Args:
        spec: The trial.
        cluster: What `ray.cluster_resources()` reports, if known: small backbones use a GPU only
            where there is one.
        gpu_gib: Memory of one GPU.
    """
    need = memory_gib(spec)
    has_gpu = bool(cluster and cluster.get("GPU", 0) > 0)
    if need <= (WORTH_GPU_GIB if has_gpu else NEEDS_GPU_GIB):
        return {"cpu": 1.0, "gpu": 0.0}
    per_gpu = min(MOST_PER_GPU, math.floor(gpu_gib / need))
    # rounded down: n shares must not add up to more than one GPU
    gpu = math.floor(1e4 / per_gpu) / 1e4 if per_gpu else float(math.ceil(need / gpu_gib))
    return {"cpu": 1.0, "gpu": gpu}


@dataclass(frozen=True)
class Supply:
    """What a cluster has, or may have once its autoscaler has done all that it may.

    Attributes:
        total: Of all nodes together, as `ray.cluster_resources()` names them.
        nodes: Of each single node, which is what one process can get; of the autoscaler's types
            one node each.
    """

    total: Mapping[str, float]
    nodes: tuple[Mapping[str, float], ...] = ()


def attainable(nodes: Sequence[Mapping[str, float]], scaling: Mapping[str, Any]) -> Supply:
    """The supply of a cluster whose autoscaler may still add workers.

    Args:
        nodes: Resources of every node that is there, the head among them.
        scaling: The cluster launcher's file as it lies on the head; empty where no autoscaler runs.
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
    """Of one type; Ray takes the cluster's own limit where the type states none."""
    stated = node_type.get("max_workers")
    return int(scaling.get("max_workers") or 0) if stated is None else int(stated)


def preflight(
    spec: TrialSpec,
    cluster_resources: Mapping[str, float],
    gpu_gib: float = GPU_GIB,
    nodes: Sequence[Mapping[str, float]] = (),
) -> None:
    """Returns if the cluster can ever run the trial; Ray would wait for ever without a word.

    Args:
        spec: The trial.
        cluster_resources: Of all nodes together, those included that an autoscaler may add.
        gpu_gib: Memory of one GPU.
        nodes: Of each single node; none where that is not known.

    Raises:
        UsageError: With what the trial needs and what there is.
    """
    need = resources(spec, cluster_resources, gpu_gib)
    name = spec.backbone["name"]
    for kind, label in (("cpu", "CPU"), ("gpu", "GPU")):
        there = float(cluster_resources.get(label, 0))
        if need[kind] > there:
            raise UsageError(
                f"backbone={name} needs {need[kind]:g} {label} per trial "
                f"({memory_gib(spec):.1f} GiB); the cluster has {there:g} {label}"
            )
    memory = cluster_resources.get("memory")
    if not need["gpu"] and memory is not None and memory_gib(spec) > memory / 2**30:
        raise UsageError(
            f"backbone={name} needs {memory_gib(spec):.1f} GiB of memory per trial; "
            f"the cluster has {memory / 2**30:.1f} GiB"
        )
    fits = any(
        all(node.get(label, 0) >= need[kind] for kind, label in (("cpu", "CPU"), ("gpu", "GPU")))
        for node in nodes
    )
    if nodes and not fits:
        sizes = {f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes}
        raise UsageError(
            f"backbone={name} needs {need['cpu']:g} CPU and {need['gpu']:g} GPU on one node; "
            f"the nodes that are there or may be added have {'; '.join(sorted(sizes))}"
        )
