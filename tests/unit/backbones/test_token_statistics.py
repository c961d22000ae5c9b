"""Which tokens count, by hand; and a model with a built-in attention sink."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.assemblies.test_side_editor import EDITS, SETTINGS
from trainables.artefacts import Artefacts
from trainables.assemblies.side_editor import SideEditor
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.hidden_states.down_site import DownScale, DownSite
from trainables.backbones.hidden_states.token_statistics import ordinary_tokens, token_mean
from trainables.interfaces import Backbone, DecodeState, PromptBatch, TrainingRecord
from trainables.moe.side_memory import random_masks
from trainables.prompts import collate, edit_batch, pad_id, tokenise

LAYER = 2
PROMPTS = (
    "The capital of Fooland is Bar City, and that of Oslo Bay is",
    "Where was Ada Quell born, and where does she work?",
    "Who wrote The Long Tide for Lumen Works?",
)


def test_ordinary_tokens_then_what_is_ten_times_the_median_is_left_out() -> None:
    is_prompt = torch.tensor([[True, True, True, True, False], [False, True, True, True, True]])
    lengths = torch.tensor([[90.0, 3.0, 4.0, 5.0, 9e9], [9e9, 4.0, 40.0, 4.0, 41.0]])
    # medians (the lower of two middle ones) 4 and 4; 90 and 41 lie above 40, 40 does not
    counted = ordinary_tokens(is_prompt, lengths[..., None])
    assert counted.tolist() == [[False, True, True, True, False], [False, True, True, True, False]]
    # (3 + 4 + 5) / 3; (4 + 40 + 4) / 3
    assert token_mean(lengths, counted).tolist() == [4.0, 16.0]


def test_ordinary_tokens_when_there_is_one_or_each_state_names_another_then_all_count() -> None:
    one = torch.tensor([[True, False]])
    assert ordinary_tokens(one, torch.tensor([[[5.0], [1.0]]])).tolist() == [[True, False]]
    both = torch.tensor([[True, True]])
    states = torch.tensor([[[99.0], [1.0]]]), torch.tensor([[[1.0], [99.0]]])
    assert ordinary_tokens(both, states[0]).tolist() == [[False, True]]
    assert ordinary_tokens(both, *states).tolist() == [[True, True]]


def test_ordinary_tokens_in_float16_then_lengths_do_not_overflow() -> None:
    states = torch.full((1, 3, 64), 1.0, dtype=torch.float16)
    states[0, 0] = 30_000.0  # its square is beyond float16
    assert ordinary_tokens(torch.ones(1, 3, dtype=torch.bool), states).tolist() == [
        [False, True, True]
    ]


@pytest.fixture
def with_sink(llama: Backbone, checkpoints: dict[str, Path]) -> Backbone:
    """The tiny Llama with a begin token that is 2,000 times as long as the others.

    No token looks at another in either: what the sink does to its neighbours is not the point.
    """
    from trainables.backbones.loading import load_backbone

    made = load_backbone(checkpoints["llama"])
    for backbone in (llama, made):
        for layer in range(backbone.num_layers):
            path = f"{backbone.layer_path(layer)}.self_attn.o_proj.weight"
            backbone.model.get_parameter(path).zero_()
    table = made.embedding.weight
    made.model.set_output_embeddings(  # the answers are still those of the plain table
        _head(table.detach().clone())
    )
    begin = made.tokenizer.bos_token_id
    size = table.norm(dim=1).mean()
    table[begin] = 2000 * size * torch.nn.functional.normalize(table[begin], dim=0)
    return made


def _head(weight: torch.Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight = nn.Parameter(weight, requires_grad=False)
    return head


def scale_of(backbone: Backbone) -> DownScale:
    return DownSite(backbone, LAYER, PrefixCache()).scale(PROMPTS)


def test_scale_when_there_is_a_sink_then_it_is_that_of_the_other_tokens(
    llama: Backbone, with_sink: Backbone
) -> None:
    rows = [tokenise(llama.tokenizer, prompt) for prompt in PROMPTS]
    read = DownSite(with_sink, LAYER, PrefixCache()).read(collate(rows, pad_id=0))
    residual = (read.layer - read.outputs).norm(dim=-1)
    assert float(residual[0, 0] / residual[0, 1:].median()) > 50  # as those of real models
    plain, sunk = scale_of(llama), scale_of(with_sink)
    assert sunk.residual_norm == pytest.approx(plain.residual_norm, rel=0.03)
    assert sunk.input_power == pytest.approx(plain.input_power, rel=0.03)
    torch.testing.assert_close(sunk.centre, plain.centre, atol=1e-5, rtol=1e-4)
    assert sunk.spread == pytest.approx(plain.spread, rel=1e-4)


def test_scale_without_a_sink_then_every_prompt_token_counts(llama: Backbone) -> None:
    rows = [tokenise(llama.tokenizer, prompt, "Bar") for prompt in PROMPTS]
    prompts = collate(rows, pad_id=0, padding_side="left")
    read = DownSite(llama, LAYER, PrefixCache()).read(prompts)
    assert torch.equal(read.counted, prompts.prompt_mask)


def editor_of(backbone: Backbone, folder: Path) -> SideEditor:
    """Memories with the same deltas, whatever the backbone."""
    generator = torch.Generator().manual_seed(0)
    editor = SideEditor(replace(SETTINGS, num_prefixes=0), backbone, Artefacts(folder), generator)
    editor.prepare([TrainingRecord(edit) for edit in EDITS])
    for mask in random_masks(2, editor.size, 0.5, generator):
        editor.memories.add(mask)
        editor.memories.deltas[-1] = 0.02 * torch.randn(mask.shape, generator=generator) * mask
    return editor


def test_activations_when_there_is_a_sink_then_those_of_the_other_tokens(
    llama: Backbone, with_sink: Backbone, tmp_path: Path
) -> None:
    plain, sunk = editor_of(llama, tmp_path / "plain"), editor_of(with_sink, tmp_path / "sunk")
    assert sunk.sgd_lr == pytest.approx(plain.sgd_lr, rel=0.08)  # r^2 / A
    found = []
    for editor in (plain, sunk):
        batch = edit_batch(llama.tokenizer, EDITS, end=True)
        rows = editor.rows(batch, editor.plan_batch(batch))
        found.append(rows.activations(editor.memories)[0])
    # short prompts: of five tokens one is left out
    torch.testing.assert_close(found[1], found[0], atol=0, rtol=0.15)


def test_route_when_there_is_a_sink_then_training_and_inference_count_alike(
    with_sink: Backbone, tmp_path: Path
) -> None:
    editor = editor_of(with_sink, tmp_path)
    seen: list[torch.Tensor] = []

    def decide(
        inputs: torch.Tensor, outputs: torch.Tensor, prompts: PromptBatch, counted: torch.Tensor
    ) -> torch.Tensor:
        seen.append(editor.memories.activations(inputs, outputs, counted))
        return seen[-1].argmax(1)

    rows = [tokenise(with_sink.tokenizer, prompt) for prompt in PROMPTS]
    for side in ("left", "right"):
        prompts = collate(
            rows, pad_id=pad_id(with_sink.tokenizer), padding_side=side, scores_last=True
        )  # type: ignore[arg-type]
        editor.routes(prompts, decide)
        editor.answer(prompts, None, editor.memories.deltas, decide)
        editor.answer(prompts, DecodeState(), editor.memories.deltas, decide)
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], atol=1e-5, rtol=1e-4)
