"""GPUs that are not there: CPU tensors that answer, mix and wait as if they lay on them.

`with pretended(num_gpus=3) as devices:` code runs as on a machine with three GPUs, on a torch
without CUDA. Every tensor is a real CPU tensor; its storage bears the GPU that it pretends to lie
on. An operation on tensors of two devices raises as on CUDA; `devices` counts how often the host
waits for a GPU, how many bytes pass between devices, and how many lie on each.

Nothing here runs a CUDA kernel. What it does not see: the memory that a kernel takes for itself,
the allocator's rounding, collectives, and threads other than the one that entered the block.
"""

from __future__ import annotations

from tests.devices.memory import CPU, Devices, Sync
from tests.devices.pretence import pretended

__all__ = ["CPU", "Devices", "Sync", "pretended"]
