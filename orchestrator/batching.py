"""How many edits a protocol draws, and into which batches; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.config import Protocol
from orchestrator.errors import UsageError


def batches(protocol: Protocol) -> dict[str, int]:
    """Edit batch size and number of batches, each from the other where one is left open."""
    edits, size, count = protocol.num_edits, protocol.edit_batch_size, protocol.num_batches
    if protocol.kind == "batch":
        if size not in (None, edits):
            raise UsageError(
                f"protocol.edit_batch_size={size}: with protocol.kind=batch it is "
                f"protocol.num_edits={edits}; give protocol.num_batches for the batches averaged"
            )
        return {"edit_batch_size": edits, "num_batches": count or 1}
    if protocol.kind == "single":
        if size not in (None, 1) or count not in (None, edits):
            raise UsageError(
                "protocol.kind=single takes one edit at a time: "
                "leave edit_batch_size and num_batches out"
            )
        return {"edit_batch_size": 1, "num_batches": edits}
    if (size or 1) > edits or (count or 1) > edits:
        key = "edit_batch_size" if (size or 1) > edits else "num_batches"
        raise UsageError(
            f"protocol.{key}={size or count}: must lie in 1 to protocol.num_edits={edits}"
        )
    if size is None:
        size = math.ceil(edits / count) if count else 1
    implied = math.ceil(edits / size)
    if protocol.edit_batch_size is not None and count not in (None, implied):
        raise UsageError(
            f"protocol.num_batches={count}: protocol.edit_batch_size={size} "
            f"cuts {edits} edits into {implied}"
        )
    return {"edit_batch_size": size, "num_batches": implied}


def num_drawn(protocol: Mapping[str, Any]) -> int:
    """Edits drawn in all."""
    rolled_back = protocol["num_batches"] if protocol["kind"] == "batch" else 1
    return int(protocol["num_edits"] * rolled_back)


def cut(protocol: Mapping[str, Any], limit: int) -> dict[str, int]:
    """The protocol's counts within `limit` edits; a stream keeps its number of batches."""
    edits = min(int(protocol["num_edits"]), limit)
    if protocol["kind"] == "batch":
        return {"num_edits": edits, "edit_batch_size": edits, "num_batches": max(1, limit // edits)}
    batches = min(int(protocol["num_batches"]), edits)
    size = math.ceil(edits / batches) if protocol["edit_batch_size"] > 1 else 1
    return {"num_edits": edits, "edit_batch_size": size, "num_batches": math.ceil(edits / size)}


def limit_of(dataset: Mapping[str, Any]) -> int | None:
    """Edits that the part of the data set can feed; None if it does not say."""
    limit = dataset.get("max_edits")
    if isinstance(limit, dict):
        limit = limit.get(dataset.get("part", "report"))
    return None if limit is None else int(limit)
