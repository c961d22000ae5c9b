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
EXPLAINED = (
    "seconds an edit; answers: all that scores it: its prompts teacher forced, with "
    "protocol.generate=true generated too, and where a method that routes sends them"
)
OF_STREAMS = (
    "answers of a stream: scored after each batch and all again at the end, in a serial one the "
    "outdated ones too; with protocol.curve=true all edits so far after each batch: not one "
    "inference an edit"
)


def per_edit(arm: Arm, name: str) -> Estimate | str:
    """Our value of one cost, seconds divided by the edits; or why there is none."""
    found = arm.state or arm.scores.get(name, "not measured")
    if isinstance(found, str) or name == "peak_gpu_gib":
        return found
    edits = num_edits(arm.protocol)
    return "not measured" if edits is None else divided(found, edits)
