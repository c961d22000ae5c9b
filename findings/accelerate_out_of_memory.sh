#!/usr/bin/env bash
# accelerate 1.15.0 tries no smaller batch when cuBLAS, cuSOLVER or the CUDA runtime runs out of memory, and tries one where cuDNN lacks a kernel.
#
# find_executable_batch_size is documented to try again with a smaller batch after an out-of-memory
# error. It goes by a few texts: torch's allocator ends its sentence behind "out of memory", the
# runtime and the libraries do not. Where they fail first, as beside another process on the same
# GPU, the run ends with what looks like a defect; a call that cuDNN does not support is repeated
# down to a batch of one instead, and then reported as a lack of memory.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

check accelerate==1.15.0 torch==2.13.0 numpy==2.4.6 <<'PROGRAM' 3<<'EXPECTED' || exit
import torch
from accelerate.utils import find_executable_batch_size

# As torch words them, without addresses.
SAID = {
    "allocator": "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "runtime": "CUDA error: out of memory",
    "cuBLAS": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuSOLVER": "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`",
    "cuDNN lacks it": "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.",
}
for source, text in SAID.items():
    tried = []

    @find_executable_batch_size(starting_batch_size=8)
    def run(batch_size):
        tried.append(batch_size)
        if batch_size > 4:
            raise RuntimeError(text)

    try:
        run()
    except RuntimeError:
        pass
    print(source, tried)
PROGRAM
allocator [8, 7, 6, 5, 4]
runtime [8]
cuBLAS [8]
cuSOLVER [8]
cuDNN lacks it [8, 7, 6, 5, 4]
EXPECTED
