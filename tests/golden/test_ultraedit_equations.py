"""UltraEdit against a slow float64 reference that runs the whole backbone row by row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, Edit
from trainables.methods.ultraedit import Config, UltraEdit, module_shift, wanted_values
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators

from . import reference_ultraedit as reference
from .reference_memit import Matrix

EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)
LATER = (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),)
RATE = 1e-3


@pytest.mark.parametrize(("tokens", "size", "out"), [(3, 5, 2), (8, 4, 3)])
def test_shift_then_as_the_reference_with_fewer_tokens_or_fewer_inputs(
    tokens: int, size: int, out: int
) -> None:
    generator = np.random.default_rng(tokens)
    keys, gradients = (generator.standard_normal((tokens, wide)) for wide in (size, out))
    seen = [*np.hstack([keys, gradients]), *generator.standard_normal((4, size + out))]
    hats = reference.normalised(list(np.hstack([keys, gradients])), seen)
    key_hats, gradient_hats = torch.from_numpy(hats).split([size, out], 1)
    values = wanted_values(key_hats, gradient_hats, 0.3)
    found = module_shift(torch.from_numpy(keys), values, 0.7)
    expected = reference.shift(list(keys), list(gradients), seen, 0.3, 0.7)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)


def factors(
    backbone: Backbone, edits: tuple[Edit, ...], paths: list[str]
) -> dict[str, tuple[list[Matrix], list[Matrix]]]:
    """For each module what enters it, and the gradient at its output, where a target is due."""
    found: dict[str, tuple[list[Matrix], list[Matrix]]] = {path: ([], []) for path in paths}
    batch = edit_batch(backbone.tokenizer, edits, end=True)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(path: str, _: object, inputs: tuple[Tensor], output: Tensor) -> None:
        output.retain_grad()
        seen[path] = inputs[0], output

    handles = [
        backbone.model.get_submodule(path).register_forward_hook(partial(note, path))
        for path in paths
    ]
    for row, ids in enumerate(batch.tokens.real_ids):
        backbone.embedding.weight.requires_grad_(True)
        logits = backbone.model(ids[None]).logits[0]
        length = int(batch.tokens.prompt_lengths[row])
        for position in range(length, len(ids)):
            logit = logits[position - 1]
            (-(logit.log_softmax(-1)[ids[position]])).backward(retain_graph=True)
        for path in paths:
            inputs, output = seen[path]
            gradient = output.grad
            assert gradient is not None
            for position in range(length - 1, len(ids) - 1):
                found[path][0].append(inputs[0, position].detach().numpy())
                found[path][1].append(gradient[0, position].numpy())
        backbone.embedding.weight.requires_grad_(False)
        backbone.embedding.weight.grad = None
    for handle in handles:
        handle.remove()
    return found


MODULES: Mapping[str, dict[str, Any]] = {
    "llama": {"modules": ("gate", "down"), "gate_layers": (1,)},
    "gpt2": {"modules": ("up", "down"), "gate_layers": None},
    "phi3": {"modules": ("gate", "down"), "gate_layers": None},
}


@pytest.mark.parametrize("normalised_over", ["shape", "module"])
@pytest.mark.parametrize("family", MODULES)
def test_two_batches_then_each_weight_as_the_reference_shifts_it(
    family: str, normalised_over: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone, mirror = (load_backbone(checkpoints[family]) for _ in range(2))
    for each in (backbone, mirror):
        each.model.double()
    wanted = MODULES[family]
    config = Config(
        layers=(2, 3), edit_lr=RATE, l2_weight=0.5, normalised_over=normalised_over, **wanted
    )
    method = UltraEdit(config, backbone, Artefacts(tmp_path), trial_generators(0))
    places = []
    for kind in wanted["modules"]:
        part = getattr(mirror.family, kind)
        layers = wanted["gate_layers"] if kind == "gate" and wanted["gate_layers"] else (2, 3)
        places += [(f"{mirror.layer_path(layer)}.{part}", kind) for layer in layers]
    seen: dict[Any, list[Matrix]] = {}
    for edits in (EDITS, LATER):
        method.begin(edit_batch(backbone.tokenizer, edits, end=True))
        assert method.advance(1)
        method.finish()
        found = factors(mirror, edits, [path for path, _ in places])
        own: dict[str, tuple[list[Matrix], list[Matrix]]] = {}
        for path, kind in places:
            keys, gradients = found[path]
            if mirror.family.is_fused and kind == "gate":  # its rows come first
                gradients = [gradient[: len(gradient) // 2] for gradient in gradients]
            own[path] = keys, gradients
            key = (len(keys[0]), len(gradients[0])) if normalised_over == "shape" else path
            rows = [np.concatenate(pair) for pair in zip(keys, gradients, strict=True)]
            seen.setdefault(key, []).extend(rows)
        for path, _ in places:
            keys, gradients = own[path]
            key = (len(keys[0]), len(gradients[0])) if normalised_over == "shape" else path
            change = reference.shift(keys, gradients, seen[key], RATE, 0.5).T
            weight, written = (
                b.model.get_parameter(f"{path}.weight").detach() for b in (mirror, backbone)
            )
            with torch.no_grad():
                if mirror.family.is_transposed:
                    change = change.T
                weight[: len(change)] += torch.from_numpy(change)
            # Llama's norms compute in float32, also in a model of float64.
            torch.testing.assert_close(written, weight, atol=1e-7, rtol=1e-6)
            assert float(np.abs(change).max()) > 1e-4
