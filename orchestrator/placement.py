"""Memory need of a trial -> CPUs and GPUs, and whether a cluster can ever give them; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def preflight(
    spec: TrialSpec, cluster_resources: Mapping[str, float], gpu_gib: float = GPU_GIB
) -> None:
    """Returns if the cluster can ever run the trial; Ray would wait for ever without a word.

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
