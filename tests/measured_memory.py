"""Peak memory of a method on a small exact model, counted allocation by allocation on the CPU.

The model is a Llama whose width, FFN, vocabulary and edits are the same part of LLaMA2-7B's: so
matrices, activations and logits keep their proportions, and each number is the square of that part
of the large one. torch's own profiler says what its allocator gave and took back, the scratch of
kernels and optimisers included; what the process holds besides is not counted.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from orchestrator.forecast.memory import PROCESS_GIB, memory
from orchestrator.forecast.shape import GIB
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces
from trainables.artefacts import Artefacts
from trainables.assemblies.gece import Corpus, GeceSettings, calibration
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import Dtype, load_backbone
from trainables.interfaces import Backbone, Edit, EditMethod, Question, TrainingRecord
from trainables.methods import build_config, get_method, method_settings
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators
from trainables.trials.learner import Learner
from trainables.trials.measurements import edit_state_bytes
from trainables.trials.packs.lockstep import apart_for

LARGE: dict[str, int] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
_GECE = GeceSettings("true_answer", "target_new", "gradient", "none", "batch", 0.0, "none")
FACTOR = 1.3  # by which what is declared may differ
_SMALL = 0.01  # a checkpoint of less than this share of a step matters to nobody
STEPS = 2  # from the second on an optimiser has its moments
_TRAINING = 80  # records that methods prepare themselves on
_READ, _PROMPTS = 128, 8  # prompts that the evaluation reads at a time, and of one edit


@dataclass(frozen=True)
class Measured:
    """Bytes above nothing at all, weights included, and what they were measured on.

    Attributes:
        stages: Peak of each stage, under the names of `orchestrator.forecast.memory`.
        checkpoint: Of the state between two steps.
        tokens_per_row: Of an edit with its target.
    """

    stages: Mapping[str, int]
    checkpoint: int
    tokens_per_row: float


@dataclass(frozen=True)
class Compared:
    """A stage, or the checkpoint: GiB as the forecast declares them and as they were measured."""

    name: str
    declared: float
    measured: float

    @property
    def ratio(self) -> float:
        """Declared against measured."""
        return self.declared / self.measured

    def __str__(self) -> str:
        return f"{self.name}: declared {self.declared:.4f} GiB, measured {self.measured:.4f}"


def compared(spec: plan.TrialSpec, found: Measured, limit: int | None = None) -> list[Compared]:
    """What the forecast declares for a trial beside what was measured, without the process.

    Args:
        spec: Of `trial_of`.
        found: Of `measured`, with the same `limit`.
        limit: Rows at a time.
    """
    told = replace(spec, cost={**spec.cost, "tokens_per_row": found.tokens_per_row})
    need, rows = memory(told), math.inf if limit is None else limit
    declared = {each.name: each.gib(rows) - PROCESS_GIB for each in need.stages}
    declared["step"] = max(declared.pop(name, 0.0) for name in ("step", "update", "read"))
    peaks = {name: peak / GIB for name, peak in found.stages.items()}
    peaks["step"] = max(peaks[name] for name in ("begin", "step", "read"))
    lines = [Compared(name, gib, peaks[name]) for name, gib in declared.items()]
    if found.checkpoint > _SMALL * found.stages["step"]:
        lines.append(Compared("checkpoint", need.checkpoint_gib, found.checkpoint / GIB))
    return lines


def small_llama(folder: Path, *, part: int, num_layers: int) -> Path:
    """A random checkpoint of `1 / part` of LLaMA2-7B's width, with a tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.conftest import tiny_tokenizer

    sizes: dict[str, Any] = {name: size // part for name, size in LARGE.items()}
    sizes["num_attention_heads"] = sizes["num_key_value_heads"] = max(1, 32 // part)
    shape = LlamaConfig(**sizes, num_hidden_layers=num_layers, tie_word_embeddings=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(shape).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def trial_of(method: str, folder: Path, num_edits: int, dtype: str, *typed: str) -> plan.TrialSpec:
    """The trial of `method` on a checkpoint; its cost has to be told how long the rows are."""
    values = SearchSpaces().load("method", method)
    base = SearchSpaces().load("method", values["base"]) if "base" in values else {}
    subjects = ["method.anchor_source=subject"] if "anchor_source" in {**base, **values} else []
    # As many as the records that are handed over allow.
    together = ["method.edits_at_once=4"] if "edits_at_once" in {**base, **values} else []
    (spec,) = plan.expand(
        config.load(
            [
                "ablation=smoke",
                f"method={method}",
                "backbone=facts",
                f"backbone.model={folder}",
                f"backbone.dtype={dtype}",
                f"protocol.num_edits={num_edits}",
                "seeds=[0]",
                *subjects,
                *together,
                *typed,
            ]
        )
    ).trials
    return spec


def measured(spec: plan.TrialSpec, folder: Path, limit: int | None = None) -> Measured:
    """What the trial's one batch takes, from the first tensor of the method to its answers.

    Args:
        spec: Of `trial_of`.
        folder: For artefacts; an empty one, so that all is built.
        limit: Rows at a time.
    """
    gc.collect()  # Or the profiler counts what an earlier measurement left as freed by this one.
    dtype: Dtype = spec.backbone["dtype"]
    backbone = load_backbone(spec.backbone["model"], dtype=dtype)
    backbone.micro_batch.limit = limit
    weights = sum(parameter.nbytes for parameter in backbone.model.parameters())
    edits = [_edit(index) for index in range(int(spec.protocol["num_edits"]))]
    training = [_training_record(index) for index in range(_TRAINING)]
    settings = {**method_settings(spec.method), **_few_steps(spec.method)}
    made, (_, method_class) = (
        build_config(spec.method["module"], settings),
        get_method(spec.method["module"]),
    )
    batch = edit_batch(backbone.tokenizer, edits, end=True)
    stages: dict[str, int] = {}
    live = [0]
    is_apart = spec.protocol["kind"] == "single"
    artefacts = Artefacts(folder)

    def prepared(on: Backbone) -> EditMethod:
        method: EditMethod = method_class(made, on, artefacts, trial_generators(0))
        method.prepare(training)
        return method

    def apart() -> EditMethod:
        return prepared(apart_for(method_class, backbone, int(settings["edit_layer"])))

    with _as_on_gpu(), torch.random.fork_rng():
        with _stage("prepare", stages, live):
            learner = Learner(lambda: prepared(backbone), apart)
        with _stage("begin", stages, live):
            learner.begin(batch, len(batch) if is_apart else 1)
        with _stage("step", stages, live):
            learner.advance(STEPS)
        checkpoint = edit_state_bytes(learner.state())
        with _stage("write", stages, live):
            learner.finish()
            learner.take(0)
        method = learner.method
        with _stage("read", stages, live), torch.no_grad():
            num_read = min(_READ if limit is None else limit, len(batch) * _PROMPTS)
            method.logits(batch.tokens.rows(torch.arange(num_read) % len(batch)))
        learner.roll_back(goes_on=False)
    return Measured(
        {name: peak + weights for name, peak in stages.items()},
        checkpoint,
        float(batch.tokens.attention_mask.sum()) / len(batch),
    )


def measured_ranking(
    spec: plan.TrialSpec, folder: Path, num_records: int, limit: int | None = None
) -> Compared:
    """GECE of so many records at the middle layer of the trial's backbone, declared and measured.

    Args:
        spec: Of `trial_of`, of any method.
        folder: For artefacts; an empty one, so that all is built.
        num_records: Of edits.
        limit: Rows at a time.
    """
    gc.collect()  # As above.
    backbone = load_backbone(spec.backbone["model"], dtype=spec.backbone["dtype"])
    backbone.micro_batch.limit = limit
    weights = sum(parameter.nbytes for parameter in backbone.model.parameters())
    artefacts, layer = Artefacts(folder), backbone.num_layers // 2
    cache = artefacts.prefix_cache
    batch = edit_batch(backbone.tokenizer, [_edit(index) for index in range(num_records)], end=True)
    split = Split(backbone, layer, cache)
    site = Site(backbone, layer, backbone.down_path(layer), cache)
    peaks: dict[str, int] = {}
    with _stage("rank", peaks, [0]):
        calibration(batch, _GECE, split, site, artefacts, Corpus())
    tokens = float(batch.tokens.attention_mask.sum()) / num_records
    told = replace(
        spec,
        cost={**spec.cost, "tokens_per_row": tokens, "records": num_records},
        dataset={**spec.dataset, "frequency_band": [0, 0.3], "frequency_source": "gece"},
    )
    (declared,) = (each for each in memory(told).stages if each.name == "rank")
    gib = declared.gib(math.inf if limit is None else limit) - PROCESS_GIB
    return Compared("rank", gib, (peaks["rank"] + weights) / GIB)


def _edit(index: int) -> Edit:
    """Rows of one length: padding is computed, too."""
    name = f"{1000 + index}"
    far = tuple(f"Is {name} the {word} of {word}?" for word in ("sea", "sky", "sun", "oak"))
    return Edit(f"Town {name} is in", f" {name[-2:]}", f"Town {name}", far, " xy")


def _training_record(index: int) -> TrainingRecord:
    edit = _edit(1000 + index)
    asked = Question(edit.training_locality[0], " yes", "locality_far")
    return TrainingRecord(edit, (edit.prompt,), (asked,))


def _few_steps(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: STEPS
        for key in settings
        if key.endswith(("num_steps", "scope_steps", "factual_steps"))
    }
    if "stop_loss" in settings:
        found["stop_loss"] = 0.0
    if "covariance_tokens_per_dim" in settings:
        found["covariance_tokens_per_dim"] = 1
    if "training_steps" in settings:
        found |= {"training_steps": STEPS, "validate_every": 1, "problems_per_step": 1}
    if "skip_correct" in settings:
        found["skip_correct"] = False
    return found


@contextmanager
def _stage(name: str, stages: dict[str, int], live: list[int]) -> Iterator[None]:
    """Adds the stage's peak to `stages`; `live` is what earlier stages left."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        yield
    assert watched.profiler is not None
    results: Any = watched.profiler.kineto_results
    peak = live[0]
    for event in results.events():
        if event.name() == "[memory]":
            live[0] += event.nbytes()
            peak = max(peak, live[0])
    stages[name] = peak


@contextmanager
def _as_on_gpu() -> Iterator[None]:
    """Optimisers step over all tensors at once, as torch chooses by itself on CUDA alone."""

    def at_once(*_: object, **__: object) -> tuple[bool, bool]:
        return False, True

    with (
        mock.patch("torch.optim.adam._default_to_fused_or_foreach", at_once),
        mock.patch("torch.optim.sgd._default_to_fused_or_foreach", at_once),
    ):
        yield
