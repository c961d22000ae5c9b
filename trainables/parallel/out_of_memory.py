"""Tells running out of memory, of whatever library, from every other error.

torch raises a class of its own only where its own allocator fails. A library that allocates by
itself says so in words: cuBLAS and cuSOLVER with a status, the driver with "out of memory" behind
"CUDA error", NCCL in the message of a failed call, the CPU's allocator in a sentence.
"""

from __future__ import annotations

import re

import torch

_SAID = re.compile(
    r"""
    \bout\ of\ memory\b               # torch's allocator, the runtime and the driver of CUDA, NCCL
    | _STATUS_ALLOC_FAILED\b          # cuBLAS, cuSOLVER, cuSPARSE, cuDNN, cuFFT
    | _NOT_INITIALIZED\b.*cublasCreate  # no room for the handle's workspace
    | cuda\ [cm]alloc\b.*\bbytes      # NCCL
    | can't\ allocate\ memory         # torch's allocator on the CPU
    | not\ enough\ memory:
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or an error that caused it, says that memory has run out."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(cause, RuntimeError) and _SAID.search(str(cause)):
            return True
        cause = cause.__cause__
    return False
