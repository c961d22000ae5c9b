"""ROME against a slow float64 reference that runs the whole backbone row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import stored_contexts
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, Edit
from trainables.methods.rome.finding import rank_one_update
from trainables.methods.rome.method import Config, Rome
from trainables.prompts import edit_batch, subject_last_token
from trainables.seeding import trial_generators
from trainables.states import snapshot

from . import reference_memit, reference_rome
from .reference_memit import Matrix
from .test_memit_equations import EDITS, passages_of_random_letters, run, tokens_of

LAYER = 1


def config(update_key: Literal["bare", "mean"], text: Path) -> Config:
    return Config(
        edit_layer=LAYER,
        v_lr=0.1,
        v_num_steps=3,
        v_weight_decay=0.5,
        stop_loss=0.0,
        clamp=4.0,
        kl_weight=0.0625,
        kl_position="last",
        update_key=update_key,
        covariance="text",
        covariance_tokens_per_dim=100,
        covariance_text=str(text),
        contexts=4,
        context_lengths=(3, 5),
    )


@pytest.mark.parametrize(("out", "size"), [(2, 3), (5, 4)])
def test_rank_one_update_then_as_printed(out: int, size: int) -> None:
    generator = np.random.default_rng(size)
    sample, weight = generator.normal(size=(20, size)), generator.normal(size=(out, size))
    mean, key = generator.normal(size=(2, size))
    wanted = generator.normal(size=out)
    moment = reference_memit.second_moment(list(sample))
    direction = torch.linalg.solve(torch.from_numpy(moment), torch.from_numpy(mean))
    residual = torch.from_numpy(wanted - weight @ key)
    found = rank_one_update(torch.from_numpy(key), residual, direction)
    expected = reference_rome.change(weight, moment, mean, key, wanted)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose((weight + expected) @ key, wanted, rtol=1e-10)


def weight_of(backbone: Backbone) -> Tensor:
    """W as the paper has it, (D, F)."""
    weight = backbone.model.get_parameter(f"{backbone.down_path(LAYER)}.weight").detach()
    return weight.T if backbone.family.is_transposed else weight


def subject_keys(backbone: Backbone, edit: Edit, contexts: Sequence[str]) -> list[Tensor]:
    """What enters the projection at the subject, for the bare prompt and in each context."""
    found = []
    for context in ("", *contexts):
        prompt = f"{context} {edit.prompt}".strip()
        column = subject_last_token(backbone.tokenizer, prompt, edit.subject)
        found.append(run(backbone, tokens_of(backbone, prompt), LAYER)[0][column])
    return found


def prepared(settings: Config, backbone: Backbone, store: Artefacts) -> Rome:
    method = Rome(settings, backbone, store, trial_generators(0))
    method.prepare([])
    return method


def delta_of(method: Rome, backbone: Backbone, edit: Edit) -> Matrix:
    """The vector of one edit after three steps on the weight as it now is."""
    method.begin(edit_batch(backbone.tokenizer, [edit], end=True))
    assert not method.advance(3)
    return snapshot(method.state()).tensors["finding/vectors/delta"][0].double().numpy()


@pytest.mark.parametrize("update_key", ["bare", "mean"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_weight_when_edits_follow_one_another_then_as_the_reference_changes_it(
    family: str, update_key: Literal["bare", "mean"], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone, mirror = (load_backbone(checkpoints[family]) for _ in range(2))
    texts = passages_of_random_letters()
    (tmp_path / "text.txt").write_text("\n".join(texts))
    settings, store = config(update_key, tmp_path / "text.txt"), Artefacts(tmp_path)
    split = Split(mirror, LAYER, store.prefix_cache)
    contexts = [text for length in (3, 5) for text in stored_contexts(split, store, 2, length)]
    seen = [key for text in texts for key in run(mirror, tokens_of(mirror, text), LAYER)[0]]
    moment = reference_memit.second_moment([key.numpy() for key in seen])
    method = prepared(settings, backbone, store)
    longer = prepared(replace(settings, v_num_steps=4), mirror, store)  # never gets to write
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    for edit in EDITS:
        keys = [key.numpy() for key in subject_keys(mirror, edit, contexts)]
        mean = reference_rome.mean_key(keys)
        key = keys[0] if update_key == "bare" else mean
        weight = weight_of(mirror).double().numpy()
        wanted = weight @ keys[0] + delta_of(longer, mirror, edit)
        change = reference_rome.change(weight, moment, mean, key, wanted)
        with torch.no_grad():
            weight_of(mirror).copy_(torch.from_numpy(weight + change))
        method.advance(3)
        # C is kept in float32, whose rounding its inverse enlarges, on some CPUs more than on
        # others: so the whole change is held against the reference's, not each of its numbers.
        far = np.linalg.norm(weight_of(backbone).double() - (weight + change))
        assert far < 1e-4 * np.linalg.norm(change)
        assert float(np.abs(change).max()) > 1e-3
        missed = np.linalg.norm(weight_of(backbone).double() @ key - wanted)
        assert missed < 1e-5 * np.linalg.norm(wanted)
    assert method.finish().num_steps == 2 * 3
