"""Counts the rows, layers and numbers that each kind of method trains on; pure.

A method's YAML says under `cost` what it trains (`trains`, a key of `KINDS`), and a data set's YAML
how long its rows are; the settings that matter to each kind are read here by their names. What
memory it takes is counted in `held`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import UsageError
from orchestrator.forecast.edit_counts import (
    TOKENS_PER_TARGET,
    batch_size,
    num_batches,
    num_edits,
    per_edit,
    rolls_back,
    side_by_side,
)
from orchestrator.forecast.shape import Shape, num_ffn_matrices
from orchestrator.forecast.trained_networks import Networks
from orchestrator.planning.shapes import EMBEDDED
from orchestrator.planning.trial_spec import TrialSpec

_ADAM_BYTES, _SGD_BYTES = 60, 30  # moved per trained number and step
# Of a row without context, from the last token of its subject on (CounterFact .54, ZsRE .47).
_FROM_SUBJECT = 0.5
_EIGENVECTORS = 9  # operations per cube of the size, of all of a symmetric matrix
_SCALE_PROMPTS = 200  # that WISE and ARM measure their layer on
_PREFIXES, _PREFIX_TOKENS = 10, 8  # that they sample, and the mean length of one
SHOWN = 2.2  # tokens of a prompt behind an edit's text, in those of an edit with its target


@dataclass(frozen=True)
class Training:
    """What one batch of edits computes and trains.

    Attributes:
        rows: Token rows per edit.
        tokens: Tokens of one row.
        reached: How many of them a change can reach, which alone pass in each step; None: all.
        above: Layers that a step passes forward and back; one passed only forward counts half.
        trained: Numbers that the optimiser updates.
        used: How many of the trained numbers one token passes.
        reads: Positions of a row at which the next token is predicted.
        passes: Whole forward passes over each edit, besides those of the evaluation.
        optimiser_bytes: Bytes that the optimiser moves per trained number and step.
        is_in_turn: Whether the edits of a batch are trained one after another, each in so many
            steps.
        finish: Operations at the end of a batch.
        once: Operations whose result is stored for all trials of one backbone.
        once_calls: Calls of a layer for `once`.
    """

    rows: float = 1
    tokens: float = 0
    reached: float | None = None
    above: float = 0
    trained: float = 0
    used: float = 0
    reads: float = TOKENS_PER_TARGET
    passes: float = 0
    optimiser_bytes: int = _ADAM_BYTES
    is_in_turn: bool = False
    finish: float = 0
    once: float = 0
    once_calls: float = 0


def training_of(spec: TrialSpec) -> Training:
    """What the method of `spec` trains on, counted for the kind that its YAML names.

    Raises:
        UsageError: If it names no known kind.
    """
    kind = spec.cost.get("trains", "weight")
    if kind not in KINDS:
        raise UsageError(
            f"method {spec.method['name']}: cost.trains={kind}: allowed: {', '.join(KINDS)}"
        )
    return KINDS[kind](spec, Shape.of_backbone(spec.backbone))


def _nothing(spec: TrialSpec, shape: Shape) -> Training:
    return Training()


def _weight(spec: TrialSpec, shape: Shape) -> Training:
    """One FFN output projection, trained in place by Adam; its pristine value is kept."""
    trained = shape.projection
    return Training(
        tokens=per_edit(spec, "tokens_per_row"),
        above=shape.num_layers - edit_layer(spec, shape) - 0.5,
        trained=trained,
        used=trained / 3,  # its forward and the way back to its inputs are among the layers'
    )


def _map(spec: TrialSpec, shape: Shape) -> Training:
    """A map beside one FFN output projection and its gate, both of one token of a row, by Adam."""
    tokens = per_edit(spec, "tokens_per_row")
    trained = shape.projection + shape.ffn + shape.width
    return Training(
        tokens=tokens,
        above=shape.num_layers - edit_layer(spec, shape) - 1,
        trained=trained,
        used=trained / tokens,
    )


def _experts(spec: TrialSpec, shape: Shape) -> Training:
    """Experts beside one FFN, and `squares` of the width in their router, trained by AdamW."""
    method, tokens = spec.method, per_edit(spec, "tokens_per_row")
    num_experts = int(method.get("num_experts") or 1)
    if spec.cost.get("grows"):  # an expert without an edit is not added
        num_experts = min(num_experts, math.ceil(batch_size(spec.protocol)))
    sizes = {
        "ffn": 2 * shape.projection,
        "dense": shape.width**2,
        "down": shape.projection,
        "lora": 2 * int(method.get("lora_rank") or 0) * shape.width,
    }
    trained = num_experts * sizes[str(method.get("expert") or "ffn")]
    router = float(spec.cost.get("squares") or 0) * shape.width**2
    is_soft = str(method.get("merging") or "").startswith("soft")
    top_k = num_experts if is_soft else int(method.get("top_k") or num_experts)
    used = trained * min(1.0, top_k / num_experts)
    holds = str(method.get("balance_positions") or "") if method.get("balance_term") else ""
    rows = 2 if holds == "locality" else 1
    return Training(
        rows=rows,
        tokens=tokens,
        above=shape.num_layers - edit_layer(spec, shape) - 1,
        trained=trained + router,
        used=used,
        reads=tokens if holds in ("prompt", "locality") else TOKENS_PER_TARGET,
        passes=float(spec.cost.get("passes") or 0),
    )


def _adapters(spec: TrialSpec, shape: Shape) -> Training:
    """Low-rank maps beside weights of every layer, trained by Adam.

    Beside the attention two that map the stream to its own width, or one to three times that.
    """
    method = spec.method
    sides = 4 * shape.width
    if method.get("modules") == "ffn":
        sides = num_ffn_matrices(spec.backbone) * (shape.width + shape.ffn)
    trained = shape.num_layers * int(method.get("lora_rank") or 0) * sides
    return Training(
        tokens=per_edit(spec, "tokens_per_row"),
        above=shape.num_layers,
        trained=trained,
        used=trained,
    )


def _memories(spec: TrialSpec, shape: Shape) -> Training:
    """Side memories of one FFN output projection: delta and mask each, trained by SGD."""
    method, own = spec.method, per_edit(spec, "tokens_per_row")
    forms = 0 if method.get("augmentation") == "none" else int(method.get("num_prefixes") or 0)
    _, in_training = memories_of(spec)
    layer = edit_layer(spec, shape)
    row = own + forms / (1 + forms) * _PREFIX_TOKENS
    unrelated = int(method.get("num_locality_rows") or 0) * own
    decoded = _PREFIXES * _PREFIX_TOKENS * bool(forms)
    return Training(
        rows=1 + forms,
        tokens=row,
        above=shape.num_layers - layer - 1,
        trained=in_training * shape.projection,
        used=shape.projection * (1 + unrelated / ((1 + forms) * row)),
        optimiser_bytes=_SGD_BYTES,
        once=2 * _SCALE_PROMPTS * own * (layer + 1) * shape.layer
        + 2 * decoded * shape.num_parameters,
        once_calls=2 * _PREFIX_TOKENS * shape.num_layers * bool(forms) + _SCALE_PROMPTS / 8 * layer,
    )


def _memory(spec: TrialSpec, shape: Shape) -> Training:
    """One memory of a projection's size, written by one edit after another, by SGD."""
    one = replace(spec, method={**spec.method, "edits_per_memory": None, "num_experts": None})
    return replace(_memories(one, shape), is_in_turn=True)


def _vectors(spec: TrialSpec, shape: Shape) -> Training:
    """One vector per edit behind the last of some layers, then a solution in each of them."""
    layers = [int(layer) for layer in spec.method["layers"]]
    edits, last = batch_size(spec.protocol), max(layers)
    training, keys = _one_vector(spec, shape, layers)
    # K K^T and the factorisation in float64, at half the speed; the keys of each layer anew.
    # Between free directions alone there are two products more, and once their eigenvectors.
    is_projected = spec.method.get("null_threshold") is not None
    factor = 4 + 1 / 3 if is_projected else 2 / 3
    together = side_by_side(
        spec, edits * shape.width, training.rows
    )  # for which one factorisation does, or none
    factor *= 0 if is_projected and together > 1 else 1 / together
    solved = 2 * len(layers) * (factor * shape.ffn + 4 * edits) * shape.ffn**2
    spectra = 2 * len(layers) * _EIGENVECTORS * shape.ffn**3 * is_projected
    found = len(layers) * edits * keys * 2 * (last + 1) * shape.layer
    return replace(
        training,
        trained=edits * shape.width,
        finish=solved + found,
        once=training.once + spectra,
    )


def _vector(spec: TrialSpec, shape: Shape) -> Training:
    """One vector after another behind one layer, each followed by a change of rank 1."""
    edits, layer = batch_size(spec.protocol), edit_layer(spec, shape)
    training, keys = _one_vector(spec, shape, [layer] if has_moments(spec) else [])
    # In float64, at half the speed: C is factorised once a trial, and solved for with each edit.
    squares = (2 / 3 * shape.ffn / num_batches(spec.protocol) + 2 * edits) * shape.ffn**2
    found = edits * keys * 2 * (layer + 1) * shape.layer
    written = 2 * edits * shape.projection
    return replace(
        training,
        trained=shape.width,
        is_in_turn=True,
        finish=2 * squares * has_moments(spec) + found + written,
    )


def has_moments(spec: TrialSpec) -> bool:
    """Whether the second moments of ordinary text are taken."""
    return spec.method.get("covariance") != "identity"


def contexts_of(spec: TrialSpec) -> tuple[int, float]:
    """Sampled prefixes before each prompt, and the mean length of one with what joins them."""
    method = spec.method
    lengths = method.get("context_lengths") or [int(method.get("context_length") or 0)]
    return int(method.get("contexts") or 0), sum(lengths) / len(lengths) + 1


def _one_vector(spec: TrialSpec, shape: Shape, layers: Sequence[int]) -> tuple[Training, float]:
    """What finding a vector behind a layer takes, and the tokens of an edit's prompts.

    `layers`: those whose second moments are taken.
    """
    method, own = spec.method, per_edit(spec, "tokens_per_row")
    contexts, length = contexts_of(spec)
    bare = 1 + bool(method.get("kl_weight"))
    rows = bare + contexts
    row = (bare * own + contexts * (own + length)) / rows
    square, last = shape.ffn**2, max(layers, default=edit_layer(spec, shape))
    tokens = int(method.get("covariance_tokens_per_dim") or 0) * shape.ffn * bool(layers)
    read = 2 * tokens * ((last + 1) * shape.layer + len(layers) * square)
    has_no_text = "covariance_text" in method and method["covariance_text"] is None
    samples = has_no_text and not str(spec.backbone["model"]).startswith(EMBEDDED)
    sampled = tokens * samples  # by the backbone itself, where its folder has no text
    training = Training(
        rows=rows,
        tokens=row,
        reached=own * _FROM_SUBJECT,
        above=shape.num_layers - last - 1,
        once=read
        + len(layers) * 6 * shape.ffn * square
        + 2 * contexts * length * shape.layer
        + 2 * sampled * shape.num_parameters,
        once_calls=(length * bool(contexts) + tokens / 4096 + sampled / 32) * shape.num_layers,
    )
    return training, (1 + contexts) * row


def _shifts(spec: TrialSpec, shape: Shape) -> Training:
    """Some matrices of FFNs, changed in closed form after one pass forward and back."""
    layers = shifted_layers(spec)
    above = shape.num_layers - min(layers)
    tokens = batch_size(spec.protocol) * TOKENS_PER_TARGET
    # In float64, at half the speed: for fewer unknowns, and the way to them and back.
    fewer = min(tokens, shape.ffn)
    each = (fewer / 3 + 2 * tokens) * fewer**2 + 2 * tokens * 2 * shape.projection
    return Training(
        tokens=per_edit(spec, "tokens_per_row"),
        above=above,
        trained=len(layers) * shape.projection,
        passes=2 * above / shape.num_layers,
        finish=2 * len(layers) * each,
    )


def shifted_layers(spec: TrialSpec) -> list[int]:
    """The layer of each matrix that UltraEdit changes."""
    layers = spec.method["layers"]
    of = {"gate": spec.method.get("gate_layers") or layers}
    modules = spec.method.get("modules") or ["down"]
    return [int(layer) for module in modules for layer in of.get(module, layers)]


def _values(spec: TrialSpec, shape: Shape) -> Training:
    """One vector per edit in a codebook at one projection, trained by Adam."""
    edits, own = num_edits(spec.protocol), per_edit(spec, "tokens_per_row")
    is_last_alone = spec.method.get("replacement") == "replace_last"
    return Training(
        tokens=own,
        reached=min(own, TOKENS_PER_TARGET + 1) if is_last_alone else None,
        above=shape.num_layers - edit_layer(spec, shape) - 1,
        trained=edits / num_batches(spec.protocol) * shape.width,
    )


def _networks(spec: TrialSpec, shape: Shape) -> Training:
    """Networks that are trained once, and one pass over the edits of a batch in `finish`.

    In training each edit is passed to and fro, and so are a rephrase and an unrelated question,
    whose way back reaches the changed weights too; the question is also read before.
    """
    method, own = spec.method, per_edit(spec, "tokens_per_row")
    networks = networks_of(spec, shape)
    above = shape.num_layers - min(map(int, method["layers"]))
    read = own if method.get("module") == "mend" else TOKENS_PER_TARGET
    of_edit = own * (4 * above * shape.layer) + read * networks.modules * 2 * networks.passed
    of_problem = own * ((3 * 4 + 2) * above * shape.layer + 2 * 2 * networks.written)
    edits = networks.edits_of_training(method)
    # The networks are passed once to make a change, and once to and fro.
    once = edits * (of_problem + read * networks.modules * 2 * 4 * networks.passed)
    problems = edits / int(method["edits_at_once"])
    return Training(
        tokens=own,
        above=above,
        trained=networks.numbers,
        finish=batch_size(spec.protocol) * of_edit,
        once=once,
        once_calls=problems * 7 * above,
    )


def networks_of(spec: TrialSpec, shape: Shape) -> Networks:
    """Sizes of the networks of a method that trains some."""
    return Networks.of(spec.method, shape.width, shape.ffn, num_ffn_matrices(spec.backbone))


def _texts(spec: TrialSpec, shape: Shape) -> Training:
    """Nothing but a memory of texts, which prompts that are about them are read behind."""
    return Training(tokens=SHOWN * per_edit(spec, "tokens_per_row"))


def _small_model(spec: TrialSpec, shape: Shape) -> Training:
    """A memory of texts, and a small model trained once to answer by them, with a matrix beside it.

    In training a row is passed to and fro, with the head at its target.
    """
    method, tokens = spec.method, SHOWN * per_edit(spec, "tokens_per_row")
    layers = int(method["counterfactual_layers"])
    rows = int(method["counterfactual_steps"]) * int(method["records_per_step"])
    head = TOKENS_PER_TARGET * shape.vocabulary * shape.width
    scope = int(method["scope_steps"]) * int(method["records_per_step"]) * 3 * shape.width**2
    return Training(
        tokens=tokens,
        once=6 * (rows * (tokens * layers * shape.layer + head) + scope),
        once_calls=3 * layers * int(method["counterfactual_steps"]),
    )


# What a method trains, as the key `cost.trains` of its YAML names it.
KINDS: Mapping[str, Callable[[TrialSpec, Shape], Training]] = {
    "nothing": _nothing,
    "weight": _weight,
    "map": _map,
    "experts": _experts,
    "adapters": _adapters,
    "memories": _memories,
    "memory": _memory,
    "vectors": _vectors,
    "hooks": _vectors,
    "vector": _vector,
    "shifts": _shifts,
    "values": _values,
    "networks": _networks,
    "texts": _texts,
    "small_model": _small_model,
}


def edit_layer(spec: TrialSpec, shape: Shape) -> int:
    """The layer that is edited, from 0; the number of layers where the method names none."""
    layer = spec.method.get("edit_layer")
    return shape.num_layers if layer is None else int(layer)


def memories_of(spec: TrialSpec) -> tuple[int, int]:
    """Side memories of a trial, and how many of them one batch trains."""
    method, batches = spec.method, num_batches(spec.protocol)
    if count := int(method.get("num_experts") or 0):
        return count, min(count, math.ceil(batch_size(spec.protocol)))
    # WISE opens them one after another, at most one with a batch, and merges.
    opened = math.ceil(num_edits(spec.protocol) / float(method.get("edits_per_memory") or math.inf))
    opened = min(max(1, opened), 1 if rolls_back(spec) else batches)
    return min(opened, int(method.get("num_memories") or 1) + 1), 1
