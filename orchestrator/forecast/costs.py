"""Counts, from shapes and settings, what one trial computes; pure.

It counts matrix products, calls of layers and bytes that an optimiser moves; `training_costs` says
what a method trains on, `memory` what it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.forecast.edit_counts import (
    TOKENS_PER_TARGET,
    mini_batches,
    num_batches,
    num_edits,
    per_edit,
    rolls_back,
)
from orchestrator.forecast.shape import Shape
from orchestrator.forecast.training_costs import training_of
from orchestrator.planning.trial_spec import TrialSpec

_ROWS_READ = 16  # prompts that the evaluation reads at a time
_TOKENS_ON_CPU, _ROWS_GENERATED = 512, 4  # of tasks: read at a time, and texts that grow at a time
# A batch whose loss falls below `stop_loss` is done: between a third and all of the steps.
_STOPPED_SHARE = 0.75
_GENERATED = 12  # tokens until the last prompt of a batch has ended
_GRADIENT_PASSES, _MOST_AVERAGED = 3, 1000  # of each record of the training part that makes E
_GECE_PASSES = 6  # greedy answers and gradients, in forward passes of the whole backbone


@dataclass(frozen=True)
class Work:
    """What a trial computes.

    Attributes:
        operations: Operations of all matrix products.
        layer_calls: Forward or backward passes of one layer, whatever their size.
        steps: Steps of the optimiser.
        bytes_moved: Bytes that the optimiser moves.
    """

    operations: float
    layer_calls: float
    steps: float = 0
    bytes_moved: float = 0


def work(spec: TrialSpec) -> Work:
    """What `spec` computes, from the pre-edit answers to the last score, without what is stored.

    A product of t tokens with n weights takes 2 t n operations forward, 2 t n back to its inputs,
    and as many to the weights where these are trained.
    """
    shape, training = Shape.of_backbone(spec.backbone), training_of(spec)
    edits, batches = num_edits(spec.protocol), num_batches(spec.protocol)
    of_edit = num_steps(spec) if training.trained else 0.0
    steps = of_edit * (edits if training.is_in_turn else batches * mini_batches(spec))
    own = per_edit(spec, "tokens_per_row")
    tokens = edits * training.rows * training.tokens
    reached = tokens if training.reached is None else edits * training.rows * training.reached
    layers = 4 * training.above * shape.layer + 6 * training.used
    head = 4 * training.reads * training.rows * edits * shape.vocabulary * shape.width
    operations = of_edit * (reached * layers + head)
    below = shape.num_layers - training.above
    once = tokens * below + (tokens - reached) * training.above
    operations += once * 2 * shape.layer * bool(training.trained)
    operations += training.passes * edits * own * 2 * shape.num_layers * shape.layer
    operations += training.finish * batches
    read = _prompts_read(spec)
    operations += edits * own * read * 2 * shape.num_layers * shape.layer
    operations += edits * read * TOKENS_PER_TARGET * 2 * shape.vocabulary * shape.width
    calls = 2 * training.above * steps + shape.num_layers * training.passes * batches
    calls += max(shape.num_layers * read * edits / _ROWS_READ, shape.num_layers * batches)
    if spec.protocol.get("generate"):
        decoded = 2 * _GENERATED * edits * per_edit(spec, "prompts_per_edit")
        operations += decoded * 2 * shape.num_parameters
        calls += decoded / _ROWS_READ * shape.num_layers
    asked = work_asked(spec)
    times = num_batches(spec.protocol) if rolls_back(spec) else 1
    return Work(
        operations + times * asked.operations,
        calls + times * asked.layer_calls,
        steps,
        steps * training.trained * training.optimiser_bytes,
    )


def work_asked(spec: TrialSpec) -> Work:
    """What it takes to ask a model once all tasks of `evaluate.ability`.

    Continuations that share their context count once, as a task's file does; what a cache holds of
    the layers below the edited one counts as if it held nothing.
    """
    counts = spec.cost.get("ability")
    if not counts:
        return Work(0.0, 0.0)
    shape = Shape.of_backbone(spec.backbone)
    read, generated = counts["read"], counts["generated"]
    calls = read / _TOKENS_ON_CPU + generated / _ROWS_GENERATED
    return Work((read + generated) * 2 * shape.num_parameters, calls * shape.num_layers)


def work_once(spec: TrialSpec) -> Work:
    """What the first trial of a backbone computes and stores, and all others read."""
    training, shape = training_of(spec), Shape.of_backbone(spec.backbone)
    records, passes = float(spec.cost.get("records") or 0), 0.0
    if spec.dataset.get("frequency_band") and spec.dataset.get("frequency_source") == "gece":
        passes += _GECE_PASSES * records
    if spec.method.get("gece_mean_over") == "training":
        passes += _GRADIENT_PASSES * min(records, _MOST_AVERAGED)
    operations = passes * per_edit(spec, "tokens_per_row") * 2 * shape.num_parameters
    calls = passes / _ROWS_READ * shape.num_layers
    return Work(training.once + operations, training.once_calls + calls)


def num_steps(spec: TrialSpec) -> float:
    """Steps that a batch is expected to take: all, or a share if a small loss ends it early."""
    method = spec.method
    most = max((int(method[key] or 0) for key in method if key.endswith("num_steps")), default=0)
    share = _STOPPED_SHARE if method.get("stop_loss") else 1.0
    return most * float(spec.cost.get("steps_share") or share)


def _prompts_read(spec: TrialSpec) -> float:
    """Prompts per edit that the whole backbone reads: before, after, and at a stream's end.

    Prompts whose answers cannot have changed are not read again: a cache holds them.
    """
    protocol = spec.protocol
    times = 2 if rolls_back(spec) or num_batches(protocol) == 1 else 3
    if spec.cost.get("trains") == "nothing":
        times = 1
    read = times * per_edit(spec, "prompts_per_edit")
    if protocol.get("curve"):
        read += (num_batches(protocol) + 1) // 2  # each edit again after every later batch
    return read
