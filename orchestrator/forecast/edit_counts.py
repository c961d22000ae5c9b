"""How many edits, batches and tokens a trial has; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.planning.trial_spec import TrialSpec

TOKENS_PER_ROW, TOKENS_PER_TARGET, PROMPTS_PER_EDIT = 15, 3, 8
TOKENS_PER_ANSWER = 8  # of a task that no edit is about, where it is chosen
VECTOR_ROWS = 128  # of edits whose vectors are found at a time
# Single edits at a time where each trains little, or has a method of its own.
_MOST_APART, _MOST_METHODS, _MOST_MEMORIES = 32, 16, 8
TOKENS_READ = 4096  # of its questions at a time on a GPU, which is where memory is short


def num_edits(protocol: Mapping[str, Any]) -> int:
    """All edits of one trial."""
    repeats = int(protocol.get("num_batches") or 1) if protocol["kind"] == "batch" else 1
    return int(protocol["num_edits"]) * repeats


def batch_size(protocol: Mapping[str, Any]) -> float:
    """Edits of one batch, on average."""
    return num_edits(protocol) / num_batches(protocol)


def mini_batches(spec: TrialSpec) -> int:
    """Steps of one pass over a batch; 1 where all its edits make one."""
    size = spec.method.get("mini_batch_size")
    return math.ceil(batch_size(spec.protocol) / int(size)) if size else 1


def num_batches(protocol: Mapping[str, Any]) -> int:
    """Batches of one trial."""
    return int(protocol.get("num_batches") or 1)


def rolls_back(spec: TrialSpec) -> bool:
    """Whether the backbone is put back after every batch."""
    return spec.protocol["kind"] in ("single", "batch")


def per_edit(spec: TrialSpec, key: str) -> float:
    """A number per edit from the data set's YAML, or else a usual value."""
    usual = {"tokens_per_row": TOKENS_PER_ROW, "prompts_per_edit": PROMPTS_PER_EDIT}
    return float(spec.cost.get(key) or usual[key])


def side_by_side(spec: TrialSpec, trained: float, rows: float = 1) -> int:
    """Single edits that are trained together.

    Weights, maps and methods of their own, of so many `trained` numbers of an edit, each with its
    gradient and Adam's two moments, at most in a quarter of 2**30 bytes; vectors as many as have
    `VECTOR_ROWS`, of so many `rows` an edit; values as many as make a batch.
    """
    cost = spec.cost
    if not learns_side_by_side(spec) or spec.method.get("mini_batch_size"):
        return 1
    most, within = _MOST_APART, max(1, int(2**28 // (16 * max(1, trained))))
    if not cost.get("side_by_side"):
        most = min(_MOST_METHODS, within)
    elif cost.get("trains") in ("vectors", "vector", "hooks"):
        most = vectors_at_once(rows)
    elif cost.get("trains") in ("weight", "adapters"):
        most = within if cost["trains"] == "weight" else min(most, within)
    elif cost.get("trains") == "memory":
        most = min(_MOST_MEMORIES, within)
    return min(num_edits(spec.protocol), most)


def learns_side_by_side(spec: TrialSpec) -> bool:
    """Whether edits which are each rolled back are trained together, as far as memory reaches."""
    is_possible = spec.cost.get("side_by_side") or spec.cost.get("packable")
    return spec.protocol["kind"] == "single" and bool(is_possible)


def vectors_at_once(rows: float) -> int:
    """Edits whose vectors are found at a time, of so many rows each."""
    return max(1, int(VECTOR_ROWS // rows))
