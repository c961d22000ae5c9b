"""Settings with which every method shows what it does on a tiny random backbone."""

from __future__ import annotations

from typing import Any

# The tiny backbones have four layers of width 32.
TINY: dict[str, Any] = {
    "edit_layer": 2,
    "layers": [1, 2],
    "lora_rank": 4,
    "projection_size": 8,
    "num_experts": 2,
    "top_k": 1,
    "num_steps": 12,
    "v_num_steps": 12,
    "edit_lr": 5e-3,
}
_SHORT_TRAINING = {
    "network_rank": 8,
    "training_lr": 1e-3,
    "training_steps": 2,
    "edits_at_once": 1,
    "problems_per_step": 1,
    "validate_every": 1,
}
TINY_OF: dict[str, dict[str, Any]] = {
    # Enough for its gate to open where it begins closed.
    "defer": {"edit_lr": 2e-2, "num_steps": 30},
    "grace": {"edit_lr": 1.0},  # Adam at rate 1 is what its radius and steps are made for
    # The published weight of the old associations leaves a tiny random model where it is.
    "memit": {"cov_weight": 1e-6, "contexts": 0},
    # A tiny random model has second moments of its own size: here about half of them are below.
    "alphaedit": {"null_threshold": 1.0, "l2_weight": 1e-6, "contexts": 0},
    "comeba_hk": {"cov_weight": 1e-6, "contexts": 0},
    "locft_bf": {"mini_batch_size": 2},  # of three edits
    # The published size of a shift is made for modules 300 times as wide.
    "ultraedit": {"edit_lr": 1e-3},
    # So few steps that the first four reach the second edit: each is written before the next.
    "serac": {
        **{"scope_steps": 3, "counterfactual_lr": 3e-3, "counterfactual_steps": 60},
        **{"records_per_step": 1, "validate_every": 5},
    },
    "memoir": {"num_prefixes": 2},  # of ten: each edit draws its own
    "rome": {"v_num_steps": 3, "contexts": 0},
    "r_rome": {"v_num_steps": 3, "contexts": 2},
    "malmen": _SHORT_TRAINING,
    "mend": _SHORT_TRAINING,
}
