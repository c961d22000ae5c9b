"""The memory that one trial needs, stage by stage, counted from shapes and settings; pure.

`held` says what each kind of method holds. A stage has a part that is there however few rows run
at a time, and a part that each row that runs adds: running out of memory halves the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.forecast.edit_counts import (
    TOKENS_PER_ANSWER,
    TOKENS_PER_TARGET,
    TOKENS_READ,
    batch_size,
    mini_batches,
    num_edits,
    per_edit,
    side_by_side,
    vectors_at_once,
)
from orchestrator.forecast.held import held_by
from orchestrator.forecast.holding import Held
from orchestrator.forecast.shape import GIB, Shape
from orchestrator.forecast.training_costs import Training, training_of
from orchestrator.planning.trial_spec import TrialSpec

# Of a process: on a CPU Python, torch, transformers and Ray; on a GPU CUDA's context. At least what
# trainables/parallel/gpu_memory.py takes off a share.
PROCESS_GIB = 0.6
_PREFIX_GIB = 2.0  # most that a process keeps of the states below an edited layer
_READ, _RANKED = 128, 64  # prompts that the evaluation, and GECE, read at a time
_LOGIT_READ_BYTES = 12  # as computed, in float32, and its probability
_GENERATED = 40  # tokens behind a prompt at most, about


@dataclass(frozen=True)
class Stage:
    """A stretch of a trial.

    Attributes:
        name: `prepare` and `rank` make what all trials of a backbone share, `step` goes forward
            and back, `update` is the optimiser's part of a step, `write` ends a batch, `read`
            scores, `ask` puts the questions of tasks.
        fixed_gib: Needed however few rows run at a time; process and weights among it.
        row_gib: Of each row that runs.
        rows: Rows that run at a time where nothing cuts them.
    """

    name: str
    fixed_gib: float
    row_gib: float = 0.0
    rows: float = 0.0

    def gib(self, most_rows: float = math.inf) -> float:
        """Peak with at most so many rows at a time."""
        return self.fixed_gib + self.row_gib * min(self.rows, most_rows)


@dataclass(frozen=True)
class Memory:
    """Memory of one process that runs a trial, 2**30 bytes.

    Attributes:
        stages: All that it passes.
        checkpoint_gib: Host memory of a checkpoint in the middle of a batch, which is as large as
            its file: what is trained, with the optimiser's moments.
    """

    stages: tuple[Stage, ...]
    checkpoint_gib: float = 0.0

    @property
    def step_gib(self) -> float:
        """Peak of a step with all its rows at a time."""
        return max(stage.gib() for stage in self.stages if stage.name not in _ONCE)

    @property
    def once_gib(self) -> float:
        """Peak of what is made once, for all trials of the backbone or at the end of a batch; or 0.

        A trial that finds the former made does not need it.
        """
        return max((stage.gib() for stage in self.stages if stage.name in _ONCE), default=0.0)

    @property
    def peak_gib(self) -> float:
        """Peak with all rows at a time."""
        return self.with_rows(math.inf)

    @property
    def least_gib(self) -> float:
        """Peak with one row at a time: with less memory a trial fails."""
        return self.with_rows(1)

    @property
    def rows(self) -> float:
        """Most rows that a stage runs at a time where nothing cuts them."""
        return max(stage.rows for stage in self.stages)

    def with_rows(self, most_rows: float) -> float:
        """Peak with at most so many rows at a time."""
        return max(stage.gib(most_rows) for stage in self.stages)

    def rows_within(self, gib: float) -> float:
        """Most rows at a time whose peak is within `gib`, at most `rows`; below 1: none fits."""
        most = math.inf
        for stage in self.stages:
            if stage.gib() > gib:
                free = gib - stage.fixed_gib
                most = min(most, free / stage.row_gib if stage.row_gib else 0.0)
        return min(most, self.rows)


_ONCE = ("prepare", "rank", "write")


def memory(spec: TrialSpec) -> Memory:
    """What `spec` needs: as the backbone's YAML states it for a whole trial, else counted."""
    stated = spec.backbone.get("memory_gib")
    if stated and not spec.backbone.get("hidden_size"):
        return Memory((Stage("step", float(stated)),))
    shape, training = Shape.of_backbone(spec.backbone), training_of(spec)
    held = held_by(spec, training)
    if stated:
        return Memory((Stage("step", float(stated)),), held.state / GIB)
    base = PROCESS_GIB + shape.weights_gib
    # Where no step is taken, an edit is a text that prompts are read behind.
    shown = 0 if training.trained else held.longest
    stages = [_reading(spec, shape, base + held.kept / GIB, shown)]
    if training.trained:
        stages += _training(spec, shape, training, held, base)
    elif held.prepare:
        stages.append(Stage("prepare", base + held.prepare / GIB))
    if _is_ranked(spec):
        stages.append(_ranking(spec, shape, base))
    if spec.cost.get("ability"):
        stages.append(_asking(spec, shape, base + held.kept / GIB))
    return Memory(tuple(stages), held.state / GIB)


def _training(
    spec: TrialSpec, shape: Shape, training: Training, held: Held, base: float
) -> list[Stage]:
    """Steps of one batch, and what is made before and after them."""
    together = side_by_side(spec, training.trained, training.rows)
    at_once = batch_size(spec.protocol) / mini_batches(spec) * together
    if spec.cost.get("trains") in ("vectors", "hooks"):
        at_once = min(at_once, vectors_at_once(training.rows))
    rows = (together if training.is_in_turn else at_once) * training.rows
    fixed = base + _prefixes(spec, shape) + held.kept / GIB
    own = held.batch + rows * held.longest * held.per_token
    going = fixed + (held.moments + held.gradients + own) / GIB
    activations = held.longest * held.layers * shape.numbers_kept * shape.bytes_each
    row = (activations + held.per_row) / GIB
    stages = [
        Stage("step", going, row, rows),
        Stage("update", going + held.scratch / GIB),
    ]
    if held.write:
        stages.append(Stage("write", fixed + held.write / GIB))
    if held.prepare:
        stages.append(Stage("prepare", base + held.prepare / GIB))
    return stages


def _reading(spec: TrialSpec, shape: Shape, fixed: float, shown: float) -> Stage:
    """Scores: prompts through all layers, none of which keeps anything but keys and values.

    `shown`: tokens of a prompt behind a text, where there is one.
    """
    tokens = max(shown, per_edit(spec, "tokens_per_row"))
    row = tokens * _passing(shape) + TOKENS_PER_TARGET * shape.vocabulary * _LOGIT_READ_BYTES
    if spec.protocol.get("generate"):
        row += (tokens + _GENERATED) * 2 * shape.num_layers * shape.width * shape.bytes_each
    prompts = num_edits(spec.protocol) * per_edit(spec, "prompts_per_edit")
    return Stage("read", fixed + _prefixes(spec, shape), row / GIB, min(_READ, prompts))


def _asking(spec: TrialSpec, shape: Shape, fixed: float) -> Stage:
    """Questions of tasks that no edit is about, through all layers; some generate a text."""
    counts = spec.cost["ability"]
    row = counts["longest"] * _passing(shape)
    row += TOKENS_PER_ANSWER * shape.vocabulary * _LOGIT_READ_BYTES
    if counts["generated"]:
        row += counts["longest"] * 2 * shape.num_layers * shape.width * shape.bytes_each
    rows = max(1.0, TOKENS_READ / counts["longest"])
    return Stage("ask", fixed + _prefixes(spec, shape), row / GIB, rows)


def _ranking(spec: TrialSpec, shape: Shape, base: float) -> Stage:
    """GECE of all records: states below the middle, and one gradient of its output projection."""
    tokens, records = per_edit(spec, "tokens_per_row"), float(spec.cost.get("records") or 0)
    states = min(_PREFIX_GIB, records * tokens * shape.width * shape.bytes_each / GIB)
    above = shape.num_layers - shape.num_layers // 2 - 1
    row = tokens * above * shape.numbers_kept * shape.bytes_each
    row += tokens * (shape.ffn + shape.width) * 2 * (4 + shape.bytes_each)
    row += TOKENS_PER_TARGET * shape.vocabulary * 16
    fixed = base + states + (8 * shape.projection + records * tokens * 5 * 8) / GIB
    return Stage("rank", fixed, row / GIB, min(_RANKED, records))


def _is_ranked(spec: TrialSpec) -> bool:
    dataset = spec.dataset
    return bool(dataset.get("frequency_band")) and dataset.get("frequency_source") == "gece"


def _passing(shape: Shape) -> float:
    """Bytes per token of one layer whose results are not kept."""
    return 3 * (shape.ffn + shape.width) * shape.bytes_each


def _prefixes(spec: TrialSpec, shape: Shape) -> float:
    """GiB of the states that a process keeps, below the edited layer and below the last one."""
    read = num_edits(spec.protocol) * per_edit(spec, "prompts_per_edit")
    tokens = 2 * read * per_edit(spec, "tokens_per_row")
    tokens += float(spec.cost.get("ability", {}).get("read", 0.0))
    return min(_PREFIX_GIB, tokens * shape.width * shape.bytes_each / GIB)
