"""LEMoE at the published size on random weights: what a batch of edits costs a GPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
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
from trainables.interfaces import Backbone, Edit
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
    tokenizer_folder: Path,
    settings: dict[str, Any],
    shape: dict[str, Any] | None = None,
    device: str = "cuda",
) -> Cost:
    """Apply `edits` as one batch by LEMoE with `settings`, all steps taken.

    Args:
        edits: The batch.
        tokenizer_folder: Of a checkpoint whose vocabulary is not larger than the shape's.
        settings: Fields of LEMoE's Config.
        shape: Of the Llama; None: LLaMA2-7B's.
        device: Where it runs.
    """
    backbone = _random_backbone(tokenizer_folder, shape or LLAMA2_7B, device)
    whole = sum(parameter.nbytes for parameter in backbone.model.parameters())
    batch = edit_batch(backbone.tokenizer, edits, end=True, device=device)
    with tempfile.TemporaryDirectory() as folder:
        method = get_method("lemoe")[1](
            build_config("lemoe", settings), backbone, Artefacts(Path(folder)), trial_generators(0)
        )
        with _peak(device) as peak:
            begin = time.perf_counter()
            method.begin(batch)
            while not method.advance(10):
                pass
            report = method.finish()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begin
        method.remove()
    return Cost(seconds, report.num_steps, peak[0] / 2**30, whole / 2**30)


def published_settings(layer: int, num_experts: int) -> dict[str, Any]:
    """LEMoE's published settings with so many experts for the one batch, and no early stop."""
    typed = [
        "ablation=smoke",
        "method=lemoe",
        "backbone=llama2_7b",
        f"method.edit_layer={layer}",
        f"method.num_experts={num_experts}",
        "seeds=[0]",
    ]
    (spec,) = plan.expand(config.load(typed)).trials
    return {**method_settings(spec.method), "stop_loss": None}


def _random_backbone(tokenizer_folder: Path, shape: dict[str, Any], device: str) -> Backbone:
    """Frozen bfloat16 weights, drawn on the device: a checkpoint of that size is not written."""
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
