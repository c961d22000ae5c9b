"""The typed settings of how trials may use GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GPU_GIB = 24.0  # the RTX 3090 on which LEMoE was measured; larger cards only fit more trials
Parallel = Literal["none", "shard", "data"]


@dataclass(frozen=True)
class Sharing:
    """How trials may use GPUs, as typed.

    Attributes:
        parallel: `none`: one GPU or a share of it; `shard`: the layers over several GPUs of one
            node; `data`: the rows over several processes; None: `shard` where one GPU is too small.
        gpus_per_trial: GPUs of `shard`, processes of `data`; None: as many as the memory takes, 2.
        gpu_gib: Memory of one GPU, 2**30 bytes.
    """

    parallel: Parallel | None = None
    gpus_per_trial: int | None = None
    gpu_gib: float = GPU_GIB


AS_FITS = Sharing()
