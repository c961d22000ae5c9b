"""Counts the bytes that each kind of method holds beside the backbone's weights; pure.

One function for each key of `training_costs.KINDS`; tests/benchmarks/memory.py measures what they
declare. P is the size of one FFN output projection. Trained numbers are float32 whatever the
backbone is: 4 bytes each, twice as many for Adam's moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator.forecast.edit_counts import (
    TOKENS_PER_TARGET,
    batch_size,
    num_batches,
    num_edits,
    per_edit,
    rolls_back,
    side_by_side,
)
from orchestrator.forecast.held_vectors import hooks, vector, vectors
from orchestrator.forecast.holding import CHANGING, LOGIT_BYTES, Held, logit_bytes
from orchestrator.forecast.shape import Shape
from orchestrator.forecast.training_costs import (
    Training,
    edit_layer,
    memories_of,
    networks_of,
    shifted_layers,
)
from orchestrator.planning.trial_spec import TrialSpec

# Of a logit as of `LOGIT_BYTES`, with what the model said before.
_DIVERGENCE_BYTES = 28
_LONGEST_PREFIX = 12  # tokens that WISE and ARM put in front of an edit, and into its subject
# Bytes of an entry while so many deltas become one: for each of them, and for all together.
_MERGED, _MERGING = 17, 8
# Of a problem that a network is trained on: rows that run at a time, and what each of two blocks
# keeps of a token.
_ROWS_OF_PROBLEM, _NETWORK_COPIES = 64, 8
_SENTENCE_BYTES = 91e6  # of the sentence encoder


def held_by(spec: TrialSpec, training: Training) -> Held:
    """What the method of `spec` holds, which trains on `training`."""
    kind = str(spec.cost.get("trains", "weight"))
    return HELD[kind](spec, Shape.of_backbone(spec.backbone), training)


def _nothing(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    return Held()


def _weight(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """A kept copy, Adam, and of a backbone below float32 a copy in it that is trained.

    A penalty that holds the weight back adds its importance and its anchor, and what the way back
    through it keeps; before the second batch of a stream there is none.
    """
    size, narrow = shape.projection, shape.is_narrow
    apart = side_by_side(spec, size)
    # Weights that pass as a stack, or a method for each edit, which keeps the pristine one as well.
    own = 4 if spec.cost.get("side_by_side") else 2 * shape.bytes_each + 4 * narrow
    boxed = spec.method.get("norm_bound") is not None  # the box has two sides
    is_stream = not rolls_back(spec) and num_batches(spec.protocol) > 1
    anchored = bool(spec.method.get("penalty_weight")) and is_stream
    return Held(
        kept=size * (shape.bytes_each + 4 * narrow + own * apart * (apart > 1)),
        moments=8 * size * apart,
        gradients=size * (4 * apart + shape.bytes_each * narrow + 12 * anchored),
        scratch=4 * size * (1 + boxed),
        batch=8 * size * anchored,
        longest=training.tokens,
        layers=shape.num_layers - edit_layer(spec, shape) - 1,
        per_token=2 * shape.width * shape.bytes_each,
        per_row=training.tokens * shape.ffn * shape.bytes_each + logit_bytes(training, shape),
        state=size * (12 * apart + 4 * (apart > 1) + 8 * anchored),
    )


def _map(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """Map and gate in float32; beside each token's state what the projection gave, and the mix."""
    trained = training.trained
    apart = side_by_side(spec, trained)
    return Held(
        kept=4 * trained * apart,
        moments=8 * trained * apart,
        gradients=4 * trained * apart,
        scratch=4 * trained,
        longest=training.tokens,
        layers=shape.num_layers - edit_layer(spec, shape) - 1,
        per_token=shape.width * (3 * shape.bytes_each + 8),
        per_row=logit_bytes(training, shape),
        state=12 * trained * apart,
    )


def _experts(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """All experts of a bank are trained; of one that is frozen the weights are left."""
    banks = num_batches(spec.protocol) if spec.cost.get("grows") and not rolls_back(spec) else 1
    trained, rows = training.trained, batch_size(spec.protocol)
    constrained = training.reads > TOKENS_PER_TARGET  # what the model said before is kept
    before = rows * (training.reads - TOKENS_PER_TARGET) * shape.vocabulary * 4 * constrained
    apart = side_by_side(spec, trained)
    logit = _DIVERGENCE_BYTES if constrained else LOGIT_BYTES
    return Held(
        kept=4 * trained * banks * apart,
        moments=8 * trained * apart,
        gradients=4 * trained * apart,
        scratch=4 * trained,
        batch=before * apart,
        longest=training.tokens,
        layers=shape.num_layers - edit_layer(spec, shape) - 1,
        per_token=6 * training.used / shape.width + 4 * shape.width * (shape.bytes_each + 4),
        per_row=training.reads * shape.vocabulary * logit,
        state=4 * trained * (banks + 2) * apart,
    )


def _adapters(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """Low-rank maps in all layers; their inputs are kept in float32, before and behind dropout."""
    grows = spec.method.get("adapter") == "one_per_batch" and not rolls_back(spec)
    sets, trained = num_batches(spec.protocol) if grows else 1, training.trained
    inputs = trained / int(spec.method["lora_rank"]) / 2  # of all maps together, about
    copies = shape.is_narrow + 2 * bool(spec.method.get("dropout"))
    apart = side_by_side(spec, trained)
    return Held(
        kept=4 * trained * (sets + apart * (apart > 1)),
        moments=8 * trained * apart,
        gradients=4 * trained * apart,
        scratch=4 * trained * apart,
        longest=training.tokens,
        layers=shape.num_layers,
        per_token=2 * shape.width * shape.bytes_each,
        per_row=training.tokens * 4 * inputs * copies + logit_bytes(training, shape),
        state=4 * trained * (sets + 2 * apart + apart * (apart > 1)),
    )


def _memories(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """Deltas with their masks; those in training are copies, and SGD has no moments."""
    method, size = spec.method, shape.projection
    count, in_training = memories_of(spec)
    is_routed = bool(method.get("num_experts"))  # ARM merges after every batch, and serves that
    merges = str(method.get("merging" if is_routed else "merge") or "none") != "none" and count > 1
    serving = 4 * size * count * (is_routed and not rolls_back(spec))
    apart = side_by_side(spec, training.trained)
    own = per_edit(spec, "tokens_per_row")
    unrelated = int(method.get("num_locality_rows") or 0) * own
    longest = own + _LONGEST_PREFIX * (training.rows > 1)
    rows = 1 + unrelated / (training.rows * training.tokens)  # tokens of both beside the edits'
    read = (shape.ffn + 2 * shape.width) * shape.bytes_each
    wide = read + 4 * (shape.ffn * (shape.is_narrow + is_routed) + 4 * shape.width)
    return Held(
        kept=size * 5 * count * apart + serving,
        moments=4 * size * in_training * apart,
        gradients=size * (4 * in_training * apart + 8),
        longest=longest,
        layers=shape.num_layers - edit_layer(spec, shape) - 1,
        per_token=wide * rows + 2 * shape.width * shape.bytes_each,
        per_row=logit_bytes(training, shape),
        write=size * (8 * in_training * apart + (_MERGED * count + _MERGING) * merges)
        + batch_size(spec.protocol) * apart * training.rows * longest * read * rows,
        state=size * (5 * count + 4 * in_training) * apart,
    )


def _memory(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """A memory, and a mask of the FFN's width for each edit; one edit is in training.

    Side by side each edit trains its own columns alone.
    """
    size, masks = shape.projection, num_edits(spec.protocol) * shape.ffn
    apart = side_by_side(spec, training.trained, training.rows)
    columns = float(spec.method.get("active_share") or 1) * size * apart * (apart > 1)
    longest = per_edit(spec, "tokens_per_row") + _LONGEST_PREFIX * (training.rows > 1)
    return Held(
        kept=4 * (size + columns) + masks,
        gradients=3 * 4 * (columns or size),  # as it comes, shortened, and with decay
        longest=longest,
        layers=shape.num_layers - edit_layer(spec, shape) - 1,
        per_token=(shape.ffn + 2 * shape.width) * shape.bytes_each + 4 * shape.ffn,
        per_row=logit_bytes(training, shape),
        state=4 * (size + columns) + masks,
    )


def _shifts(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """Copies of the matrices; their factors of all target tokens, and one change in float64."""
    layers, wide = shifted_layers(spec), shape.ffn + shape.width
    tokens = batch_size(spec.protocol) * TOKENS_PER_TARGET
    kept = training.trained * (shape.bytes_each + 4 * shape.is_narrow)
    statistics = (
        2 * 8 * wide * (1 if spec.method.get("normalised_over") == "shape" else len(layers))
    )
    return Held(
        kept=kept + statistics,
        longest=training.tokens,
        layers=shape.num_layers - min(layers),
        per_token=2 * shape.width * shape.bytes_each,
        per_row=logit_bytes(training, shape),
        write=8 * (CHANGING * shape.projection + 2 * min(tokens, shape.ffn) ** 2)
        + tokens * wide * (4 * len(layers) + 3 * 8),
        state=4 * training.trained + statistics,
    )


def _values(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """A key and a value for each edit of the stream; a batch trains its own values."""
    edits = num_edits(spec.protocol)
    book = 4 * edits * (shape.ffn + shape.width)
    return Held(
        kept=book,
        moments=12 * training.trained,
        gradients=4 * training.trained,
        scratch=4 * training.trained,
        longest=training.tokens,
        layers=shape.num_layers - edit_layer(spec, shape) - 1,
        per_token=2 * shape.width * shape.bytes_each,
        per_row=training.tokens * shape.ffn * shape.bytes_each + logit_bytes(training, shape),
        state=book + 8 * training.trained,
    )


def _networks(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """The networks, and the copies of the weights that are written; the rest is of their training.

    There gradients, moments and Adam's update stand beside the networks and their best state so
    far, and beside the weights what they were before a problem, their change and two gradients.
    """
    method, sizes = spec.method, networks_of(spec, shape)
    kept = 4 * sizes.numbers + sizes.written * (shape.bytes_each + 4 * shape.is_narrow)
    own = per_edit(spec, "tokens_per_row")
    read = own if method.get("module") == "mend" else TOKENS_PER_TARGET
    factors = 4 * sizes.joint * read * sizes.modules
    edits, rows = int(method["edits_at_once"]), min(int(method["edits_at_once"]), _ROWS_OF_PROBLEM)
    change = 4 if method.get("module") == "mend" else 8
    passing = rows * own * shape.numbers_kept * training.above * shape.bytes_each
    network = 4 * _NETWORK_COPIES * sizes.joint * read * edits
    problem = sizes.written * (change + 12) + max(passing, network) + edits * factors
    return Held(
        kept=kept,
        longest=own,
        layers=training.above,
        per_row=factors + logit_bytes(training, shape),
        prepare=kept + 4 * 5 * sizes.numbers + problem,
        write=batch_size(spec.protocol) * factors + 8 * CHANGING * sizes.largest,
        state=4 * sizes.written,
    )


def _texts(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """A key for each edit of the stream, and what makes keys; no step is taken."""
    sentences = _SENTENCE_BYTES * (spec.method.get("encoder") == "sentence")
    keys = 4.0 * num_edits(spec.protocol) * shape.width
    return Held(kept=sentences + keys, longest=training.tokens, state=keys)


def _small_model(spec: TrialSpec, shape: Shape, training: Training) -> Held:
    """A small model in float32 with embedding and head of its own, beside a memory of texts.

    While it is trained there is a second one, with its gradients, moments and Adam's update.
    """
    held, rows = _texts(spec, shape, training), int(spec.method["records_per_step"])
    layers = int(spec.method["counterfactual_layers"])
    trained = layers * shape.layer
    ends = max(
        shape.vocabulary * shape.width, shape.num_parameters - shape.num_layers * shape.layer
    )
    model = 4 * (trained + ends + shape.width**2)
    passing = rows * training.tokens * layers * shape.numbers_kept * 4
    return replace(
        held,
        kept=held.kept + model,
        prepare=held.kept
        + 2 * model
        + 16 * trained
        + passing
        + rows * logit_bytes(training, shape),
    )


# By the key `cost.trains` of a method's YAML, as `training_costs.KINDS`.
HELD: Mapping[str, Callable[[TrialSpec, Shape, Training], Held]] = {
    "nothing": _nothing,
    "weight": _weight,
    "map": _map,
    "experts": _experts,
    "adapters": _adapters,
    "memories": _memories,
    "memory": _memory,
    "vectors": vectors,
    "hooks": hooks,
    "vector": vector,
    "shifts": _shifts,
    "values": _values,
    "networks": _networks,
    "texts": _texts,
    "small_model": _small_model,
}
