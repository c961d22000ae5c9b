"""A tiny backbone that was taught a few facts, for tests of what a backbone knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from trainables.backbones.loading import load_backbone
from trainables.prompts import collate, labels_of, pad_id, tokenise

MOST_STEPS = 400


def taught(folder: Path, target: Path, facts: Sequence[tuple[str, str]]) -> Path:
    """A copy of the checkpoint in `folder` that answers every fact: prompt, answer."""
    backbone = load_backbone(folder)
    model, tokenizer = backbone.model, backbone.tokenizer
    model.requires_grad_(True)
    rows = [tokenise(tokenizer, prompt, answer) for prompt, answer in facts]
    batch = collate(rows, pad_id=pad_id(tokenizer))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(MOST_STEPS):
        whole = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        logits, labels = whole.logits[batch.scored], labels_of(batch)
        if bool((logits.argmax(-1) == labels).all()):
            model.save_pretrained(target, safe_serialization=True)
            tokenizer.save_pretrained(target)
            return target
        optimiser.zero_grad()
        cross_entropy(logits, labels).backward()
        optimiser.step()
    raise AssertionError("the facts were not learned")
