"""What one optimisation step and one evaluated prompt of each method cost, beside the plain way.

The plain way of a step: the token rows that the method trains on, through the whole model and back
to the edited layer, by the model's own `forward` with labels. The plain way of a prompt: the whole
model, one prompt after another. Both once for the same rows, in turns with the method's own, so
that only ratios within one run count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from orchestrator.planning import plan
from trainables.assemblies.side_editor import SideRun
from trainables.interfaces import Backbone, EditBatch, PromptBatch
from trainables.metrics.evaluator import Evaluator
from trainables.prompts import edit_batch
from trainables.spec import TrialSpec
from trainables.trials.workbench import Workbench


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds, medians over repetitions."""

    step: float
    plain_step: float
    prompt: float
    plain_prompt: float


def method_cost(bench: Workbench, spec: plan.TrialSpec, repetitions: int) -> Cost:
    """Costs of one method on the records of one trial, all prefix states being kept already."""
    told = TrialSpec.parse(spec.to_dict())
    backbone, source = bench.backbone(told), bench.source(told)
    steps, plain_steps, prompts, plain_prompts = [], [], [], []
    for repetition in range(repetitions + 1):
        loop = bench.loop(told)
        try:
            size = spec.protocol["edit_batch_size"]
            edits = [source.to_edit(record) for record in loop.records[:size]]
            batch = edit_batch(backbone.tokenizer, edits, end=True)
            loop.method.begin(batch)
            rows = _trained_rows(loop.method, batch)
            begin = time.process_time()
            loop.method.advance(spec.method["num_steps"])
            taken = time.process_time() - begin
            report = loop.method.finish()
            evaluator = Evaluator(backbone.tokenizer, loop.records)
            chosen = evaluator.select()
            begin = time.process_time()
            evaluator.answers(loop.method.logits, chosen)
            asked = (time.process_time() - begin) / len(chosen)
        finally:
            loop.close()
        # Only now: whatever the method put beside or in place of a layer is gone.
        plain = _plain_step(backbone, loop.method.first_layer, rows)
        if repetition:  # the first one fills the caches
            steps.append(taken / max(report.num_steps, 1))
            plain_steps.append(plain)
            prompts.append(asked)
            plain_prompts.append(_plain_prompt(backbone, evaluator, chosen))
    found = (steps, plain_steps, prompts, plain_prompts)
    return Cost(*(1000 * median(each) for each in found))


def _trained_rows(method: Any, batch: EditBatch) -> list[PromptBatch]:
    """The token rows of one step: those of the edits, and what a side memory trains on beside."""
    run = getattr(method, "_run", None)
    if not isinstance(run, SideRun):
        return [batch.tokens]
    reads = (run.rows.edited, run.rows.unrelated)
    return [read.tokens for read in reads if read is not None]


def _plain_step(backbone: Backbone, layer: int, rows: Sequence[PromptBatch]) -> float:
    """CPU seconds of a forward and backward pass of the whole model over `rows`."""
    weight = backbone.model.get_parameter(f"{backbone.down_path(layer)}.weight")
    weight.requires_grad_(True)
    try:
        begin = time.process_time()
        for tokens in rows:
            loss: Tensor = backbone.model(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                labels=tokens.input_ids,
                use_cache=False,
            ).loss
            loss.backward()
        return time.process_time() - begin
    finally:
        weight.grad = None
        weight.requires_grad_(False)


@torch.no_grad()
def _plain_prompt(backbone: Backbone, evaluator: Evaluator, chosen: Sequence[int]) -> float:
    """CPU seconds per prompt of the whole model, one prompt after another; of 200 of them."""
    some = [evaluator.probes[index] for index in chosen[:200]]
    begin = time.process_time()
    for probe in some:
        text = f"{probe.prompt} {probe.answer}"
        ids = torch.tensor([backbone.tokenizer(text)["input_ids"]], device=backbone.device)
        backbone.model(input_ids=ids, use_cache=False).logits.argmax(-1)
    return (time.process_time() - begin) / len(some)


def line_of(name: str, setting: Mapping[str, Any], cost: Cost) -> str:
    """One line of the bench."""
    return (
        f"  {name:<17} layer {setting['layer']:>2}, {setting['edits']:>2} edits: step "
        f"{cost.step:7.2f} ms, plain {cost.plain_step:7.2f}, ratio "
        f"{cost.plain_step / cost.step:4.1f}; prompt {cost.prompt:5.2f} ms, plain "
        f"{cost.plain_prompt:5.2f}, ratio {cost.plain_prompt / cost.prompt:4.1f}"
    )
