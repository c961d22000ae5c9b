#!/usr/bin/env bash
# safetensors 0.8.0 saves a numpy array in Fortran order with its values at the wrong places, and says nothing.
#
# Such an array is contiguous and dense, which is all that is asked for. Linear
# algebra and a transposed weight give such arrays: the file loads, in the right shape, and the
# model is another one. safetensors/safetensors#825 reports it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

check safetensors==0.8.0 numpy==2.4.6 <<'PROGRAM' 3<<'EXPECTED' || exit
import numpy as np
from safetensors.numpy import load, save

weight = np.arange(6, dtype=np.float32).reshape(2, 3)
for order in "CF":
    saved = np.asarray(weight, order=order)
    loaded = load(save({"weight": saved}))["weight"]
    print(order, saved.tolist(), loaded.tolist())
PROGRAM
C [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
F [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]
EXPECTED
