"""Gradients at several modules at once: of every family, padding and piece, against autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.module_gradients import ModuleFactors, module_factors
from trainables.interfaces import Backbone, Edit, EditBatch
from trainables.prompts import edit_batch, tokenise

EDITS = (
    Edit("The capital of Fooland is", "Vesper"),
    Edit("Who wrote The Long Tide?", "Ada Quell of Oslo Bay"),
    Edit("Ada Quell works for", "Lumen"),
)


def paths_of(backbone: Backbone) -> list[str]:
    """Up and down of two layers that follow each other, and the gate where there is one."""
    family = backbone.family
    names = dict.fromkeys(filter(None, (family.gate, family.up, family.down)))
    return [f"{backbone.layer_path(layer)}.{name}" for layer in (1, 2) for name in names]


def joined(parts: list[dict[str, ModuleFactors]]) -> dict[str, ModuleFactors]:
    return {
        path: ModuleFactors(
            *(torch.cat(each) for each in zip(*(p[path] for p in parts), strict=True))
        )
        for path in parts[0]
    }


def factors(
    backbone: Backbone, batch: EditBatch, paths: Sequence[str] = (), **how: Any
) -> dict[str, ModuleFactors]:
    split = Split(backbone, 1, PrefixCache())
    wanted = paths or paths_of(backbone)
    return joined(list(module_factors(split, wanted, batch.tokens, batch.labels, **how)))


def whole_gradients(backbone: Backbone, edit: Edit) -> list[Tensor]:
    """By autograd at one unpadded row, as (out, in)."""
    row = tokenise(backbone.tokenizer, edit.prompt, edit.target_new)
    weights = [backbone.model.get_parameter(f"{path}.weight") for path in paths_of(backbone)]
    for weight in weights:
        weight.requires_grad_(True)
    logits = backbone.model(input_ids=torch.tensor([row.ids])).logits[0]
    loss = torch.nn.functional.cross_entropy(
        logits[row.prompt_length - 1 : -1], torch.tensor(row.target)
    )
    found = torch.autograd.grad(loss, weights)
    for weight in weights:
        weight.requires_grad_(False)
    return [each.T if backbone.family.is_transposed else each for each in found]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_module_factors_multiply_to_each_edit_s_gradient_at_every_module(
    backbone: Backbone, padding_side: str
) -> None:
    batch = edit_batch(backbone.tokenizer, EDITS, end=False, padding_side=padding_side)  # type: ignore[arg-type]
    found = factors(backbone, batch)
    for index, edit in enumerate(EDITS):
        for path, expected in zip(paths_of(backbone), whole_gradients(backbone, edit), strict=True):
            deltas, keys, owner = found[path]
            own = owner == index
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                deltas[own].T @ keys[own], expected, rtol=1e-4, atol=1e-4 * scale
            )
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_module_factors_of_one_module_alone_are_those_that_it_has_beside_others(
    backbone: Backbone,
) -> None:
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    together = factors(backbone, batch)
    for path, expected in together.items():
        alone = factors(backbone, batch, [path])
        assert alone.keys() == {path}
        scale = float(expected.deltas.abs().max())
        torch.testing.assert_close(
            alone[path].deltas, expected.deltas, rtol=1e-4, atol=1e-5 * scale
        )
        torch.testing.assert_close(alone[path].keys, expected.keys, rtol=1e-4, atol=1e-5)


def test_module_factors_when_cut_into_parts_then_are_the_same(llama: Backbone) -> None:
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    whole = factors(llama, batch)
    llama.micro_batch.limit = 1
    cut = factors(llama, batch)
    llama.micro_batch.limit = None
    for path, expected in whole.items():
        assert torch.equal(cut[path].owner, expected.owner)
        torch.testing.assert_close(cut[path].deltas, expected.deltas, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(cut[path].keys, expected.keys, rtol=1e-4, atol=1e-5)


def test_module_factors_at_scored_are_those_of_the_tokens_that_predict_a_label(
    llama: Backbone,
) -> None:
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    every, some = factors(llama, batch), factors(llama, batch, at_scored=True)
    host = batch.tokens.on_host
    is_scored = host.scored[host.attention_mask.bool()]
    assert is_scored.sum() == len(batch.labels) < len(is_scored)
    for path, expected in every.items():
        for ours, theirs in zip(some[path], expected, strict=True):
            assert torch.equal(ours, theirs[is_scored])


def test_module_factors_of_tokens_count_each_label_as_if_it_were_alone(backbone: Backbone) -> None:
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    means, sums = factors(backbone, batch), factors(backbone, batch, loss_of="token")
    counts = torch.tensor(batch.tokens.scored_counts)
    assert len(set(counts.tolist())) > 1
    for path, expected in means.items():
        labels = counts[expected.owner][:, None]
        scale = float(expected.deltas.abs().max())
        torch.testing.assert_close(
            sums[path].deltas, expected.deltas * labels, rtol=1e-4, atol=1e-5 * scale
        )
        torch.testing.assert_close(sums[path].keys, expected.keys)
