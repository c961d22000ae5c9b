"""A method at the published size on random weights: what a batch of edits costs a GPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from orchestrator.planning import plan
from orchestrator.settings import loading as config
from trainables.artefacts import Artefacts
from trainables.backbones.families import get_family
from trainables.interfaces import Backbone, Edit, TrainingRecord
from trainables.methods import build_config, get_method, method_settings
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators

LLAMA2_7B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}


@dataclass(frozen=True)
class Cost:
    """Of one batch of edits."""

    seconds: float  # wall, from the batch's arrival to its commit
    num_steps: int
    peak_gib: float  # torch's peak allocation, 2**30 bytes, backbone included
    backbone_gib: float


def edit_large(
    edits: list[Edit],
    backbone: Backbone,
    settings: dict[str, Any],
    module: str = "lemoe",
    training: Sequence[TrainingRecord] = (),
) -> Cost:
    """Apply `edits` as one batch by a method with `settings`, all steps taken.

    Args:
        edits: The batch.
        backbone: Of `random_backbone`; it is what it was afterwards.
        settings: Fields of the method's Config.
        module: Of the method.
        training: What it may prepare itself with.
    """
    device = backbone.device
    whole = sum(parameter.nbytes for parameter in backbone.model.parameters())
    batch = edit_batch(backbone.tokenizer, edits, end=True, device=device)
    with tempfile.TemporaryDirectory() as folder:
        method = get_method(module)[1](
            build_config(module, settings), backbone, Artefacts(Path(folder)), trial_generators(0)
        )
        with _peak(device.type) as peak:
            method.prepare(training)
            begin = time.perf_counter()
            method.begin(batch)
            while not method.advance(10):
                pass
            report = method.finish()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begin
        method.remove()
    return Cost(seconds, report.num_steps, peak[0] / 2**30, whole / 2**30)


def published(method: str, *typed: str, backbone: str = "llama2_7b") -> plan.TrialSpec:
    """A trial of `method` with its published settings in units of a backbone, and what is typed."""
    words = ["ablation=smoke", f"method={method}", f"backbone={backbone}", "seeds=[0]", *typed]
    (spec,) = plan.expand(config.load(words)).trials
    return spec


def without_stop(spec: plan.TrialSpec) -> dict[str, Any]:
    """The settings of a trial's method, without an early stop."""
    settings = method_settings(spec.method)
    return {**settings, "stop_loss": 0.0} if "stop_loss" in settings else settings


def random_backbone(
    tokenizer_folder: Path, shape: dict[str, Any] | None = None, device: str = "cuda"
) -> Backbone:
    """Frozen bfloat16 weights, drawn on the device: a checkpoint of that size is not written.

    Args:
        tokenizer_folder: Of a checkpoint whose vocabulary is not larger than the shape's.
        shape: Of the Llama; None: LLaMA2-7B's.
        device: Where it lies.
    """
    shape = shape or LLAMA2_7B
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    finally:
        torch.set_default_dtype(before)
    model.requires_grad_(False).eval()
    return Backbone(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(tokenizer_folder),
        family=get_family("llama"),
        fingerprint="random",
        num_layers=shape["num_hidden_layers"],
        hidden_size=shape["hidden_size"],
        ffn_size=shape["intermediate_size"],
    )


@contextmanager
def _peak(device: str) -> Iterator[list[int]]:
    """Bytes of the largest allocation inside the block, filled in at its end; 0 on a CPU."""
    found = [0]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device == "cuda":
        found[0] = torch.cuda.max_memory_allocated()
