"""What an edit costs in a trial, as every table of costs shows it."""

from __future__ import annotations

from analysis.aggregate import Arm, Estimate
from analysis.counts import num_edits
from analysis.layouts.layout import divided

COSTS = {
    "peak_gpu_gib": "GPU GiB / GB",
    "edit_seconds": "Edit s",
    "evaluation_seconds": "Answers s",
}
EXPLAINED = "seconds an edit; answers: of all prompts that an edit is scored by, teacher forced"


def per_edit(arm: Arm, name: str) -> Estimate | str:
    """Our value of one cost, seconds divided by the edits; or why there is none."""
    found = arm.state or arm.scores.get(name, "not measured")
    if isinstance(found, str) or name == "peak_gpu_gib":
        return found
    edits = num_edits(arm.protocol)
    return "not measured" if edits is None else divided(found, edits)
