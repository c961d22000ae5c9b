"""MEMIT against a slow float64 reference that runs the whole backbone row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.spread_vectors import least_squares_update
from trainables.assemblies.vectors_apart import least_squares_directions
from trainables.backbones.hidden_states.subject_rows import KlPosition, subject_rows
from trainables.backbones.hidden_states.subject_vectors import SubjectVectors, VectorSettings
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, Edit
from trainables.methods.memit import Config, memit
from trainables.prompts import edit_batch, subject_last_token
from trainables.seeding import trial_generators
from trainables.states import snapshot

from . import reference_memit as reference
from .reference_memit import Matrix

EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)
LAYERS = (0, 2)
CONFIG = Config(
    layers=LAYERS,
    v_lr=0.1,
    v_num_steps=3,
    v_weight_decay=0.5,
    stop_loss=0.0,
    clamp=4.0,
    kl_weight=0.0625,
    kl_position="last",
    cov_weight=2.0,
    contexts=0,
    context_length=1,
    covariance_tokens_per_dim=100,
    covariance_text=None,
    accumulate_keys=False,
)


@pytest.mark.parametrize(("size", "out", "num_edits"), [(3, 2, 1), (5, 3, 2), (4, 4, 7)])
def test_least_squares_update_then_as_printed(size: int, out: int, num_edits: int) -> None:
    generator = torch.Generator().manual_seed(size)
    kwargs = {"generator": generator, "dtype": torch.float64}
    keys, residuals = torch.randn(size, num_edits, **kwargs), torch.randn(out, num_edits, **kwargs)
    sample = torch.randn(20, size, **kwargs)
    old = 1.5 * sample.T @ sample / 20
    moment = reference.second_moment(list(sample.numpy()))
    expected = reference.update(list(keys.T.numpy()), list(residuals.T.numpy()), 1.5 * moment)
    # The ridge of 1e-8 of the diagonal is all that differs.
    np.testing.assert_allclose(
        least_squares_update(keys, residuals, old).numpy(), expected, rtol=1e-6, atol=1e-7
    )

    # And of each edit alone, side by side.
    directions = least_squares_directions(keys.T, old)
    for number, (key, residual) in enumerate(zip(keys.T.numpy(), residuals.T.numpy(), strict=True)):
        alone = reference.update([key], [residual], 1.5 * moment)
        found = np.outer(residual, directions[number].numpy())
        np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-7)


def passages_of_random_letters() -> list[str]:
    """About 600 tokens: more than any tiny backbone has key dimensions, so that C has full rank."""
    generator = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;!")
    return ["".join(generator.choice(letters, 30)) for _ in range(20)]


@contextmanager
def inputs_of(backbone: Backbone, layer: int) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    down = backbone.model.get_submodule(backbone.down_path(layer))
    handle = down.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].double()))
    yield seen
    handle.remove()


def tokens_of(backbone: Backbone, text: str) -> Tensor:
    return torch.tensor([backbone.tokenizer(text)["input_ids"]])


@torch.no_grad()
def run(backbone: Backbone, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Inputs (T, F) of the projection of `layer` and all layers' outputs (layers, T, D)."""
    with inputs_of(backbone, layer) as seen:
        out = backbone.model(ids, output_hidden_states=True)
    return seen[0], torch.stack(out.hidden_states[1:])[:, 0].double()


def subject_column(backbone: Backbone, edit: Edit) -> int:
    column = subject_last_token(backbone.tokenizer, edit.prompt, edit.subject)
    assert column is not None
    return column


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_finish_then_each_weight_as_the_reference_spreads_the_residual(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone, mirror = (load_backbone(checkpoints[family]) for _ in range(2))
    texts = passages_of_random_letters()
    (tmp_path / "text.txt").write_text("\n".join(texts))
    config = replace(CONFIG, covariance_text=str(tmp_path / "text.txt"))
    method = memit(config, backbone, Artefacts(tmp_path), trial_generators(0))
    method.prepare([])
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    assert method.advance(10)
    delta = snapshot(method.state()).tensors["vectors/delta"].double().numpy()
    method.finish()

    moments = {
        layer: reference.second_moment(
            [k.numpy() for text in texts for k in run(mirror, tokens_of(mirror, text), layer)[0]]
        )
        for layer in LAYERS
    }
    prompts = [tokens_of(mirror, edit.prompt) for edit in EDITS]
    columns = [subject_column(mirror, edit) for edit in EDITS]
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
        change = reference.update(keys, residuals, CONFIG.cov_weight * moments[layer])
        path = f"{mirror.down_path(layer)}.weight"
        weight, written = (b.model.get_parameter(path).detach() for b in (mirror, backbone))
        with torch.no_grad():
            oriented = change.T if mirror.family.is_transposed else change
            weight.copy_(weight.double() + torch.from_numpy(oriented))
        # float32 keys and states; the update itself is of order 1e-2
        torch.testing.assert_close(written, weight, atol=2e-5, rtol=1e-4)
        assert float(np.abs(change).max()) > 1e-3


@torch.no_grad()
def shifted_run(
    backbone: Backbone, layer: int, ids: Tensor, column: int, vector: Tensor
) -> tuple[Matrix, Matrix]:
    """Logits (T, V) with the vector added behind `layer`, and the state it is added to."""
    base: list[Tensor] = []

    def add(_: torch.nn.Module, __: object, output: Tensor | tuple[Tensor]) -> object:
        states = output[0] if isinstance(output, tuple) else output
        base.append(states[0, column].double())
        states = states.clone()
        states[0, column] += vector
        return (states, *output[1:]) if isinstance(output, tuple) else states

    module = backbone.model.get_submodule(backbone.layer_path(layer))
    handle = module.register_forward_hook(add)
    out = backbone.model(ids).logits[0].double().numpy()
    handle.remove()
    return out, base[0].numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_vector_loss_then_as_the_reference(family: str, checkpoints: dict[str, Path]) -> None:
    backbone = load_backbone(checkpoints[family])
    layer, contexts = 1, ("The long tide.", "I was.")
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    rows = subject_rows(backbone, batch, contexts, with_kl=True)
    vectors = SubjectVectors(backbone, layer, rows, VectorSettings(0.5, 0.0, 4.0, 0.0625))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        vectors.delta.copy_(torch.randn(vectors.delta.shape, generator=generator))

    expected = []
    tokenizer, end = backbone.tokenizer, [backbone.tokenizer.eos_token_id]
    for edit, vector in zip(EDITS, vectors.delta.detach(), strict=True):
        per_context, base = [], None
        for context in ("", *contexts):
            prompt = f"{context} {edit.prompt}".strip()
            ids = tokenizer(f"{prompt} {edit.target_new}")["input_ids"] + end
            length = len(tokenizer(prompt)["input_ids"])
            column = subject_column(backbone, Edit(prompt, edit.target_new, edit.subject))
            out, state = shifted_run(backbone, layer, torch.tensor([ids]), column, vector)
            base = state if base is None else base
            per_context.append(list(out[length - 1 : len(ids) - 1]))
            targets = ids[length:]
        is_a = Edit(f"{edit.subject} is a", "", edit.subject)
        ids, column = tokens_of(backbone, is_a.prompt), subject_column(backbone, is_a)
        now, before = (
            shifted_run(backbone, layer, ids, column, scale * vector)[0][-1] for scale in (1, 0)
        )
        expected.append(
            reference.edit_loss(
                per_context, targets, (now, before), vector.double().numpy(), base, 0.0625, 0.5
            )
        )
    assert float(vectors.loss().detach()) == pytest.approx(sum(expected), rel=1e-4)
    assert vectors.losses.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kl_position", ["last", "subject"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_kl_term_then_as_the_reference_in_float64_at_either_position(
    family: str, kl_position: KlPosition, checkpoints: dict[str, Path]
) -> None:
    backbone, exact = (load_backbone(checkpoints[family]) for _ in range(2))
    exact.model.double()
    layer, generator = 1, torch.Generator().manual_seed(0)
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    rows = subject_rows(backbone, batch, (), with_kl=True, kl_position=kl_position)
    losses, deltas = [], torch.randn(len(EDITS), backbone.hidden_size, generator=generator)
    for kl_weight in (1.0, 0.0):
        vectors = SubjectVectors(backbone, layer, rows, VectorSettings(0.5, 0.0, 4.0, kl_weight))
        with torch.no_grad():
            vectors.delta.copy_(deltas)
        vectors.loss()
        losses.append(vectors.losses)

    expected, elsewhere = [], []
    for edit, delta in zip(EDITS, deltas.double(), strict=True):
        prompt = Edit(f"{edit.subject} is a", "", edit.subject)
        ids, column = tokens_of(exact, prompt.prompt), subject_column(exact, prompt)
        now, before = (shifted_run(exact, layer, ids, column, x)[0] for x in (delta, 0 * delta))
        read, other = (-1, column) if kl_position == "last" else (column, -1)
        expected.append(reference.divergence(now[read], before[read]))
        elsewhere.append(reference.divergence(now[other], before[other]))
    # float32: what is left of two losses of about 6
    assert (losses[0] - losses[1]).tolist() == pytest.approx(expected, abs=1e-5)
    assert all(abs(a - b) > 1e-3 for a, b in zip(expected, elsewhere, strict=True))
