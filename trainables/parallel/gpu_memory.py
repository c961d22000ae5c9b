"""Keeps a process to its share of a GPU, and tells whether others have taken from that share.

A share counts all of a process: torch's allocator, which can be limited, and the context of CUDA
beside it, which cannot.
"""

from __future__ import annotations

import os

import torch

CONTEXT_BYTES = int(0.6 * 2**30)  # kernels and handles of one process; assumed, as in gpu forecasts
_SLACK = 1 / 8  # of a share; others that hold less of it did not make the difference


def keep_to_share(share: float) -> None:
    """Let this process take no more of its GPU than its share of it.

    So a trial that needs more than was forecast runs into its own limit and halves its rows, and
    does not take what its neighbours count on.

    Args:
        share: Of one GPU, as the scheduler gave it; from 1 on nothing is limited.
    """
    if share >= 1 or not torch.cuda.is_available():
        return
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = max(share * total - CONTEXT_BYTES, 0.0)
    torch.cuda.set_per_process_memory_fraction(allowed / total)


def is_taken_by_others(share: float) -> bool:
    """Whether this process could not get its share of the GPU, as others hold a part of it.

    Args:
        share: As for `keep_to_share`; more than 1 counts as 1, on the first GPU.
    """
    if not torch.cuda.is_available():
        return False
    free, total = torch.cuda.mem_get_info()
    due = min(share, 1.0) * total
    return torch.cuda.memory_reserved() + CONTEXT_BYTES + free < due * (1 - _SLACK)


def grow_in_place() -> None:
    """Let torch's allocator enlarge its blocks, so that sizes that vary leave no holes.

    It has to be said before the GPU is first used; what the user says holds.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
