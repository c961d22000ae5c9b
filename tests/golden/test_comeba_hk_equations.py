"""COMEBA-HK against a slow float64 reference that runs the whole backbone row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, Edit
from trainables.methods.comeba_hk.hooks import HookLayer, z_scores
from trainables.methods.comeba_hk.method import ComebaHk, Config
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators
from trainables.states import snapshot

from . import reference_comeba_hk as reference
from . import reference_memit
from .reference_comeba_hk import Floats
from .test_memit_equations import passages_of_random_letters, run, subject_column, tokens_of

LAYERS = (0, 2)
BATCHES = (
    (
        Edit("The capital of Fooland is", "Bar City", "Fooland"),
        Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
    ),
    (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),),
)
CONFIG = Config(
    layers=LAYERS,
    v_lr=0.1,
    v_num_steps=3,
    v_weight_decay=0.5,
    stop_loss=0.0,
    clamp=4.0,
    kl_weight=0.0625,
    kl_position="last",
    cov_weight=1e-2,
    hook_threshold=0.8,
    contexts=0,
    context_length=1,
    covariance_tokens_per_dim=100,
    covariance_text=None,
)


@pytest.mark.parametrize("lengths", [(1, 4), (3, 2), (5, 5)])
def test_gate_as_the_reference_whatever_is_padded(lengths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    kwargs = {"generator": generator, "dtype": torch.float64}
    W_0, change = torch.randn(3, 4, **kwargs), torch.randn(3, 4, **kwargs)
    keys = torch.randn(len(lengths), max(lengths), 4, **kwargs)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hook = HookLayer(change, torch.zeros(4, 4), 0.3)
    scores = z_scores(hook.added(keys).norm(dim=-1), mask)
    output = keys @ W_0.T
    answered = hook.answered(keys, output, mask)
    for row, length in enumerate(lengths):
        tokens = list(keys[row, :length].numpy())
        W_h = (W_0 + change).numpy()
        expected = reference.z_scores(reference.sizes(W_h, W_0.numpy(), tokens))
        np.testing.assert_allclose(scores[row, :length].numpy(), expected, rtol=1e-10)
        swapped = reference.swapped(W_h, W_0.numpy(), tokens, 0.3)
        np.testing.assert_allclose(answered[row, :length].numpy(), swapped, rtol=1e-10)
        assert torch.equal(answered[row, length:], output[row, length:])


@contextmanager
def hooked(
    backbone: Backbone,
    W_h: Mapping[int, Floats],
    W_0: Mapping[int, Floats],
    alphas: Mapping[int, float | None],
) -> Iterator[None]:
    """Hook layers of the reference on a single row, a prompt; None: for every token."""

    def answer(layer: int, keys: Tensor, output: Tensor) -> Tensor:
        tokens, alpha = list(keys[0].numpy()), alphas[layer]
        if alpha is None:
            made = [W_h[layer] @ k for k in tokens]
        else:
            made = reference.swapped(W_h[layer], W_0[layer], tokens, alpha)
        down = backbone.model.get_submodule(backbone.down_path(layer))
        bias = getattr(down, "bias", None)
        return torch.tensor(np.array(made))[None] + (0 if bias is None else bias.detach())

    with ExitStack() as stack:
        for layer in alphas:

            def hook(
                _: nn.Module, inputs: tuple[Tensor], out: Tensor, layer: int = layer
            ) -> Tensor:
                return answer(layer, inputs[0], out)

            down = backbone.model.get_submodule(backbone.down_path(layer))
            stack.callback(down.register_forward_hook(hook).remove)
        yield


class Mirror:
    """The reference's hook layers beside a backbone that it runs row by row."""

    def __init__(self, backbone: Backbone, texts: Sequence[str]) -> None:
        self.backbone = backbone
        self.W_0, self.C_accu = {}, {}
        for layer in LAYERS:
            weight = backbone.model.get_parameter(f"{backbone.down_path(layer)}.weight").detach()
            self.W_0[layer] = (weight.T if backbone.family.is_transposed else weight).numpy()
            rows = [run(backbone, tokens_of(backbone, text), layer)[0] for text in texts]
            keys = [key.numpy() for row in rows for key in row]
            self.C_accu[layer] = CONFIG.cov_weight * reference_memit.second_moment(keys)
        self.W_h = {layer: self.W_0[layer].copy() for layer in LAYERS}
        self.alphas = dict.fromkeys(LAYERS, CONFIG.hook_threshold)

    def edit(self, edits: Sequence[Edit], delta: Floats) -> None:
        """One batch, whose vectors were found."""
        prompts = [tokens_of(self.backbone, edit.prompt) for edit in edits]
        columns = [subject_column(self.backbone, edit) for edit in edits]
        with hooked(self.backbone, self.W_h, self.W_0, self.alphas):
            states = [run(self.backbone, ids, LAYERS[-1])[1][LAYERS[-1]] for ids in prompts]
        wanted = [s[c].numpy() + d for s, c, d in zip(states, columns, delta, strict=True)]
        modes: dict[int, float | None] = dict.fromkeys(LAYERS)
        for index, layer in enumerate(LAYERS):
            keys, residuals = [], []
            with hooked(self.backbone, self.W_h, self.W_0, modes):
                for ids, column, goal in zip(prompts, columns, wanted, strict=True):
                    inputs, outputs = run(self.backbone, ids, layer)
                    keys.append(inputs[column].numpy())
                    gap = goal - outputs[LAYERS[-1], column].numpy()
                    residuals.append(gap / (len(LAYERS) - index))
            change = reference_memit.update(keys, residuals, self.C_accu[layer])
            self.W_h[layer] = self.W_h[layer] + change
            for key in keys:
                self.C_accu[layer] = self.C_accu[layer] + np.outer(key, key)
            modes[layer] = self.alphas[layer]
        self._lower(prompts)

    def _lower(self, prompts: Sequence[Tensor]) -> None:
        for layer, alpha in self.alphas.items():
            tokens = [list(run(self.backbone, ids, layer)[0].numpy()) for ids in prompts]
            sizes = [reference.sizes(self.W_h[layer], self.W_0[layer], each) for each in tokens]
            lowered = reference.lowered(alpha, list(map(reference.z_scores, sizes)))
            slack = math.sqrt(torch.finfo(torch.float64).eps)
            self.alphas[layer] = lowered if lowered == alpha else lowered - slack


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_batches_then_hook_layers_and_thresholds_as_the_reference(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone, mirrored = (load_backbone(checkpoints[family]) for _ in range(2))
    for each in (backbone, mirrored):
        each.model.double()
    texts = passages_of_random_letters()
    (tmp_path / "text.txt").write_text("\n".join(texts))
    config = replace(CONFIG, covariance_text=str(tmp_path / "text.txt"))
    method = ComebaHk(config, backbone, Artefacts(tmp_path), trial_generators(0))
    method.prepare([])
    mirror = Mirror(mirrored, texts)
    for edits in BATCHES:
        method.begin(edit_batch(backbone.tokenizer, edits, end=True))
        assert method.advance(10)
        delta = snapshot(method.state()).tensors["vectors/delta"].double().numpy()
        method.finish()
        mirror.edit(edits, delta)
        state = method.state()
        stored: Any = state.values["thresholds"]
        for layer in LAYERS:
            change = state.tensors[f"change/{layer}"].numpy()
            assert float(np.abs(change).max()) > 1e-3
            # C is stored in float32, and so are keys and residuals; entries are of order 1e-2.
            expected = mirror.W_h[layer] - mirror.W_0[layer]
            np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-5)
            assert stored[str(layer)] == pytest.approx(mirror.alphas[layer], rel=1e-5)
    assert max(mirror.alphas.values()) <= CONFIG.hook_threshold
