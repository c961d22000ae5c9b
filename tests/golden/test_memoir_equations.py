"""MEMOIR against a slow float64 reference that runs the whole backbone row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, Edit, TrainingRecord
from trainables.methods.memoir.method import Config, Memoir
from trainables.prompts import collate, edit_batch, tokenise
from trainables.seeding import trial_generators

from . import reference_memoir as reference
from .reference_memit import Matrix

LAYER, RATE, LONGEST, DECAY, STEPS = 2, 0.3, 0.5, 1e-3, 3
CONFIG = Config(
    edit_layer=LAYER,
    active_share=0.25,
    overlap_threshold=0.5,
    pooling="centred_mean",
    num_prefixes=0,
    edit_lr=RATE,
    clip_norm=LONGEST,
    num_steps=STEPS,
    stop_loss=None,
    weight_decay=DECAY,
)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)
UNRELATED = ("Lumen Works was founded in", "Who wrote The Long Tide?", "Oslo Bay lies")


def keys_of(backbone: Backbone, text: str) -> list[Matrix]:
    """What enters the projection at each token of a prompt."""
    seen: list[Tensor] = []
    down = backbone.model.get_submodule(backbone.down_path(LAYER))
    handle = down.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        backbone.model(torch.tensor([backbone.tokenizer(text)["input_ids"]]))
    handle.remove()
    return list(seen[0].numpy())


def gradient_of(backbone: Backbone, edit: Edit, memory: Matrix, mask: Matrix) -> Matrix:
    """Of the mean loss of the target's tokens by W_m, through the whole backbone."""
    trained = torch.from_numpy(memory).requires_grad_(True)
    columns = torch.from_numpy(mask)

    def add(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + (inputs[0] * columns) @ trained.T

    down = backbone.model.get_submodule(backbone.down_path(LAYER))
    handle = down.register_forward_hook(add)
    row = tokenise(backbone.tokenizer, edit.prompt, edit.target_new, end=True)
    logs = backbone.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    handle.remove()
    each = [-logs[row.prompt_length - 1 + i, token] for i, token in enumerate(row.target)]
    (gradient,) = torch.autograd.grad(sum(each) / len(each), trained)  # type: ignore[arg-type]
    return gradient.numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_edits_then_masks_and_memory_as_the_reference_writes_them(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone, mirror = (load_backbone(checkpoints[family]) for _ in range(2))
    for each in (backbone, mirror):
        each.model.double()
    method = Memoir(CONFIG, backbone, Artefacts(tmp_path), trial_generators(0))
    method.prepare([TrainingRecord(Edit(text, "x")) for text in UNRELATED])
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    while not method.advance(2):
        pass
    method.finish()
    state = method.state().tensors

    permutation = state["masks/permutation"].tolist()
    means = [sum(keys) / len(keys) for keys in (keys_of(mirror, text) for text in UNRELATED)]
    centre = sum(means) / len(means)
    active = round(0.25 * backbone.ffn_size)
    memory = np.zeros((backbone.hidden_size, backbone.ffn_size))
    for index, edit in enumerate(EDITS):
        mask = reference.mask(keys_of(mirror, edit.prompt), centre, active, permutation)
        np.testing.assert_array_equal(state["masks/rows"][index].numpy(), mask.astype(bool))
        for _ in range(STEPS):
            gradient = gradient_of(mirror, edit, memory, mask)
            memory = reference.stepped(memory, gradient, RATE, LONGEST, DECAY)
    # Llama's norms compute in float32, also in a model of float64.
    np.testing.assert_allclose(state["memory"].numpy(), memory, atol=1e-5, rtol=1e-4)
    assert float(np.abs(memory).max()) > 1e-2


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_routes_then_the_edit_that_shares_most_columns_if_they_suffice(
    threshold: float, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["llama"])
    backbone.model.double()
    config = Config(**{**vars(CONFIG), "overlap_threshold": threshold, "num_steps": 1})
    method = Memoir(config, backbone, Artefacts(tmp_path), trial_generators(0))
    method.prepare([TrainingRecord(Edit(text, "x")) for text in UNRELATED])
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    while not method.advance(2):
        pass
    method.finish()
    texts = (EDITS[0].prompt, EDITS[1].prompt, "Where was Ada Quell made?", "Ada Quell", "7 + 2 =")
    found = method.routes(collate([tokenise(backbone.tokenizer, t) for t in texts], pad_id=0))
    state = method.state().tensors
    permutation, rows = state["masks/permutation"].tolist(), state["masks/rows"].double().numpy()
    expected = []
    for text in texts:
        own = reference.mask(
            keys_of(backbone, text), state["masks/centre"].numpy(), int(rows[0].sum()), permutation
        )
        shares = [reference.shared(own, row) for row in rows]
        expected.append(int(np.argmax(shares)) if max(shares) >= threshold else -1)
    assert found.tolist() == expected
    assert expected[:2] == [0, 1]
    if threshold == 1.0:
        assert expected[2:] == [-1, -1, -1]
