"""What a method holds of memory beside the backbone's weights, by when it is there; pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.forecast.shape import Shape
from orchestrator.forecast.training_costs import Training

# Of a logit: itself as computed and in float32, its log-probability, and the gradients of both.
LOGIT_BYTES = 16
CHANGING = 3  # matrices of a projection's size in float64 while a weight is changed


@dataclass(frozen=True)
class Held:
    """Bytes that a batch of edits needs beside the weights, and the layers that it passes.

    Attributes:
        kept: As long as the trial lasts: experts, codebooks, copies of the weights written.
        moments: Of the optimiser, while a batch is under way.
        gradients: While a step goes back.
        scratch: Of the optimiser's update, when no activation is left.
        batch: Of all edits of a batch, besides.
        longest: Tokens of the longest row; padding is computed, too.
        layers: Decoder layers that keep what they compute for the way back.
        per_token: For each token of all rows of the batch, however few run at a time.
        per_row: For each row that runs, besides its layers: its logits.
        prepare: All that is there while that is made which all trials of a backbone share, before
            the first batch.
        write: For what is made at the end of a batch, beside `kept`; what the batch has read is
            still there.
        state: Of a checkpoint in the middle of a batch.
    """

    kept: float = 0
    moments: float = 0
    gradients: float = 0
    scratch: float = 0
    batch: float = 0
    longest: float = 0
    layers: float = 0
    per_token: float = 0
    per_row: float = 0
    prepare: float = 0
    write: float = 0
    state: float = 0


def logit_bytes(training: Training, shape: Shape) -> float:
    """Of the logits of a row that runs."""
    return training.reads * shape.vocabulary * LOGIT_BYTES
