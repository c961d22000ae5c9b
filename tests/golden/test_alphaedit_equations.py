"""AlphaEdit against a slow float64 reference that runs the whole backbone row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.assemblies.vectors_apart import null_space_directions
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Edit
from trainables.methods.alphaedit import Config, alphaedit, null_space_update
from trainables.prompts import edit_batch
from trainables.seeding import trial_generators
from trainables.states import snapshot

from . import reference_alphaedit as reference
from . import reference_memit
from .reference_memit import Matrix
from .test_memit_equations import (
    EDITS,
    LAYERS,
    passages_of_random_letters,
    run,
    subject_column,
    tokens_of,
)

LATER = (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),)
CONFIG = Config(
    layers=LAYERS,
    v_lr=0.1,
    v_num_steps=3,
    v_weight_decay=0.5,
    stop_loss=0.0,
    clamp=4.0,
    kl_weight=0.0625,
    kl_position="subject",
    null_threshold=0.5,
    l2_weight=0.3,
    accumulate_keys=True,
    contexts=0,
    context_length=1,
    covariance_tokens_per_dim=100,
    covariance_text=None,
)


@pytest.mark.parametrize("num_earlier", [0, 3])
@pytest.mark.parametrize(("size", "out", "num_edits"), [(4, 2, 1), (6, 3, 2), (5, 4, 8)])
def test_null_space_update_then_as_the_public_code_solves_it(
    size: int, out: int, num_edits: int, num_earlier: int
) -> None:
    generator = np.random.default_rng(size)
    keys, residuals = (generator.standard_normal((num_edits, wide)) for wide in (size, out))
    earlier = generator.standard_normal((num_earlier, size))
    sample = generator.standard_normal((30, size)) * np.linspace(0.1, 2, size)
    moment = reference_memit.second_moment(list(sample))
    values, vectors = np.linalg.eigh(moment)
    threshold = float(values[size // 2 - 1 : size // 2 + 1].mean())  # half of them are free
    basis = torch.from_numpy(vectors[:, values < threshold])
    products = torch.from_numpy(keys.T @ keys + earlier.T @ earlier)
    found = null_space_update(
        torch.from_numpy(keys.T), torch.from_numpy(residuals.T), basis, products, 0.7
    )
    expected = reference.update(
        list(keys), list(residuals), reference.projector(moment, threshold), list(earlier), 0.7
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert float(np.abs(expected).max()) > 1e-2
    # And of each edit alone, side by side, when no batch came before.
    directions = null_space_directions(torch.from_numpy(keys), basis, 0.7).numpy()
    for number, (key, residual) in enumerate(zip(keys, residuals, strict=True)):
        projector = reference.projector(moment, threshold)
        alone = reference.update([key], [residual], projector, [], 0.7)
        np.testing.assert_allclose(
            np.outer(residual, directions[number]), alone, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_batches_then_each_weight_as_the_reference_solves_for_it(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone, mirror = (load_backbone(checkpoints[family]) for _ in range(2))
    texts = passages_of_random_letters()
    (tmp_path / "text.txt").write_text("\n".join(texts))
    tokens = [tokens_of(mirror, text) for text in texts]
    moments = {
        layer: reference_memit.second_moment(
            [key.numpy() for ids in tokens for key in run(mirror, ids, layer)[0]]
        )
        for layer in LAYERS
    }
    # The middle one: half of the directions are free, none of them close to the threshold.
    spectrum = np.linalg.eigvalsh(moments[LAYERS[0]])
    threshold = float(spectrum[len(spectrum) // 2 - 1 : len(spectrum) // 2 + 1].mean())
    config = replace(CONFIG, covariance_text=str(tmp_path / "text.txt"), null_threshold=threshold)
    method = alphaedit(config, backbone, Artefacts(tmp_path), trial_generators(0))
    method.prepare([])
    earlier: dict[int, list[Matrix]] = {layer: [] for layer in LAYERS}
    for edits in (EDITS, LATER):
        method.begin(edit_batch(backbone.tokenizer, edits, end=True))
        assert method.advance(10)
        delta = snapshot(method.state()).tensors["vectors/delta"].double().numpy()
        method.finish()
        prompts = [tokens_of(mirror, edit.prompt) for edit in edits]
        columns = [subject_column(mirror, edit) for edit in edits]
        last = LAYERS[-1]
        wanted = [
            run(mirror, ids, last)[1][last, column].numpy() + vector
            for ids, column, vector in zip(prompts, columns, delta, strict=True)
        ]
        for index, layer in enumerate(LAYERS):
            keys, residuals = [], []
            for ids, column, goal in zip(prompts, columns, wanted, strict=True):
                inputs, states = run(mirror, ids, layer)
                keys.append(inputs[column].numpy())
                residuals.append((goal - states[last, column].numpy()) / (len(LAYERS) - index))
            free = reference.projector(moments[layer], threshold)
            change = reference.update(keys, residuals, free, earlier[layer], CONFIG.l2_weight)
            earlier[layer] += keys
            path = f"{mirror.down_path(layer)}.weight"
            weight, written = (b.model.get_parameter(path).detach() for b in (mirror, backbone))
            with torch.no_grad():
                oriented = change.T if mirror.family.is_transposed else change
                weight.copy_(weight.double() + torch.from_numpy(oriented))
            # float32 keys and states; the update itself is of order 1e-2
            torch.testing.assert_close(written, weight, atol=2e-5, rtol=1e-4)
            assert float(np.abs(change).max()) > 1e-3
