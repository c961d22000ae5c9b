from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.parallel.out_of_memory import is_out_of_memory

# As torch 2.13, cuBLAS, cuSOLVER, NCCL and the driver word them, without addresses and sizes.
RAN_OUT = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported elsewhere"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling cusolverDnCreate"),
    RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    RuntimeError("NCCL error\nLast error:\nFailed to CUDA calloc async 608 bytes"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    MemoryError(),
)
OTHERS = (
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."),
    ValueError("the answer is 'out of memory'"),
    KeyError("out of memory"),
)


@pytest.mark.parametrize("error", RAN_OUT, ids=str)
def test_is_out_of_memory_when_any_library_ran_out_then_true(error: Exception) -> None:
    assert is_out_of_memory(error)
    around = ValueError("loading failed")
    around.__cause__ = error
    assert is_out_of_memory(around)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_is_out_of_memory_when_something_else_is_wrong_then_false(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_is_out_of_memory_when_this_machine_runs_out_then_true() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**55)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
