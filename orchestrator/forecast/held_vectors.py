"""Counts the bytes that methods hold which find vectors and write weights by them; pure.

As `held`, whose table has the functions of this file, too.
"""

from __future__ import annotations

import math
from dataclasses import replace

from orchestrator.forecast.edit_counts import (
    batch_size,
    num_batches,
    per_edit,
    rolls_back,
    side_by_side,
    vectors_at_once,
)
from orchestrator.forecast.holding import CHANGING, Held, logit_bytes
from orchestrator.forecast.shape import Shape
from orchestrator.forecast.training_costs import (
    Training,
    contexts_of,
    edit_layer,
    has_moments,
)
from orchestrator.planning.trial_spec import TrialSpec

# Matrices of F x F float64 at a time, where MEMIT solves for one layer; of C's check, beside those
# of all layers in float64 and float32.
_SOLVING, _CHECKING = 5, 3


def vectors(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """Vectors are small; what is large are the F x F products, which host memory keeps.

    Keys of earlier batches are there from the end of the first one on. The eigenvectors that
    AlphaEdit takes of C, one layer after another, need no more than C's check of all layers.
    """
    layers = [int(layer) for layer in spec.method["layers"]]
    square, apart = shape.ffn**2, side_by_side(spec, training.trained, training.rows)
    edits = batch_size(spec.protocol) * apart
    earlier = 8 * len(layers) * square * bool(spec.method.get("accumulate_keys"))
    later = earlier * (not rolls_back(spec) and num_batches(spec.protocol) > 1)
    held = _written(spec, shape, training, len(layers))
    states = edits * training.rows * held.longest * shape.width * shape.bytes_each
    moving = min(edits, vectors_at_once(training.rows))
    before = 4 * moving * shape.vocabulary * bool(spec.method.get("kl_weight"))
    return replace(
        held,
        kept=held.kept + later,
        batch=before,
        layers=shape.num_layers - max(layers) - 1,
        prepare=held.kept + square * (12 * len(layers) + 8 * _CHECKING),
        write=8 * square * (_SOLVING + 2 * bool(earlier)) + states + before + earlier - later,
        state=(held.state if apart == 1 else 12 * training.trained * apart) + later,
    )


def hooks(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """As `vectors`, of weights that are not written: a change beside each, and F x F products."""
    held, square = vectors(spec, shape, training), shape.ffn**2
    apart = side_by_side(spec, training.trained, training.rows)
    layers = len(spec.method["layers"])
    hooks = layers * (4 * shape.projection + 8 * square)
    later = hooks * (not rolls_back(spec) and num_batches(spec.protocol) > 1)
    return replace(
        held,
        kept=later,
        prepare=held.prepare - held.kept,
        write=held.write + 8 * square + hooks - later,
        state=12 * training.trained * apart + later,
    )


def vector(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """A vector is small; what is large are C's factors, if C is taken, and the change itself.

    Side by side the states of all edits are still there when one of them is written.
    """
    square = shape.ffn**2 * has_moments(spec)
    held = _written(spec, shape, training, 1)
    apart = side_by_side(spec, training.trained, training.rows)
    states = training.rows * held.longest * shape.width * shape.bytes_each
    before = 4 * shape.vocabulary * bool(spec.method.get("kl_weight"))
    return replace(
        held,
        kept=held.kept + 8 * square,
        batch=before * apart,
        layers=shape.num_layers - edit_layer(spec, shape) - 1,
        prepare=held.kept + square * (12 + 8 * _CHECKING),
        write=8 * shape.projection * CHANGING + (states + before) * apart * (apart > 1),
        state=held.state if apart == 1 else 12 * training.trained * apart,
    )


def _written(spec: TrialSpec, shape: Shape, training: Training, num_layers: int) -> Held:
    """What vectors need, and the copies of so many projections that are written."""
    context = math.ceil(contexts_of(spec)[1]) * bool(contexts_of(spec)[0])
    written = num_layers * shape.projection
    return Held(
        kept=written * (shape.bytes_each + 4 * shape.is_narrow),
        moments=12 * training.trained,
        gradients=4 * training.trained,
        scratch=4 * training.trained,
        longest=per_edit(spec, "tokens_per_row") + context,
        per_token=4 * shape.width * shape.bytes_each,
        per_row=logit_bytes(training, shape),
        state=4 * written + 12 * training.trained,
    )
