"""WISE beyond the contract: when memories begin, merge and answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.bases import read_method, read_presets
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit, EditReport, TrainingRecord
from trainables.methods import build_config, method_settings
from trainables.methods.wise import Config, Wise
from trainables.prompts import collate, edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.spec import Dtype

FAR = ("Who wrote The Long Tide?", "Is it so?", "Ivo Marsh works for", "Where is Oslo Bay?")
EDITS = tuple(
    Edit(prompt, target, None, FAR)
    for prompt, target in (
        ("The capital of Fooland is", "Bar City"),
        ("Where was Ada Quell born?", "Vesper"),
        ("Ada Quell works for", "Lumen Works"),
        ("Who leads Oslo Bay?", "Ivo Marsh"),
    )
)
CONFIG = Config(
    edit_layer=2,
    inference="merge",
    num_memories=2,
    edits_per_memory=1,
    mask_ratio=0.3,
    merge="linear",
    merge_density=0.5,
    merged_share=None,
    activation="linear",
    margin_unit="residual",
    margin_far=0.15,
    margin_edit=0.6,
    margin_gap=0.3,
    margin_weight=2.0,
    hinge_mean="all",
    threshold_ratio=0.88,
    augmentation="prefix",
    num_prefixes=1,
    num_locality_rows=2,
    edit_lr=0.2,
    num_steps=5,
    stop_loss=None,
    weight_decay=0.0,
    decay_on="all",
    norm_bound=None,
)


def make(backbone: Backbone, folder: Path, **changes: Any) -> Wise:
    method = Wise(replace(CONFIG, **changes), backbone, Artefacts(folder), trial_generators(0))
    method.prepare([TrainingRecord(edit) for edit in EDITS])
    return method


def apply(method: Wise, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(100):
        pass
    return method.finish()


def prompts(backbone: Backbone, *texts: str) -> Any:
    rows = [tokenise(backbone.tokenizer, text, "Bar") for text in texts]
    return collate(rows, pad_id=0)


def memories(method: Wise) -> list[torch.Tensor]:
    return method._editor.memories.deltas


def shards(backbone: Backbone, folder: Path, count: int) -> list[torch.Tensor]:
    """What each memory holds when nothing is merged."""
    method = make(backbone, folder, merge="none")
    for edit in EDITS[:count]:
        apply(method, backbone, edit)
    return memories(method)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threshold_that_an_edit_sets_is_reached_by_it_however_it_is_asked(
    dtype: Dtype, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["llama"], dtype=dtype)
    rows = [tokenise(backbone.tokenizer, text, "Bar City of Fooland") for text in FAR]
    for edit in EDITS:
        method = make(backbone, tmp_path, inference="retrieval", threshold_ratio=1.0, num_steps=30)
        apply(method, backbone, edit)
        own = tokenise(backbone.tokenizer, edit.prompt, edit.target_new)
        batches = [
            collate([own], pad_id=0),
            collate([own, *rows], pad_id=0),
            collate([own, *rows], pad_id=0, padding_side="left"),
            collate([tokenise(backbone.tokenizer, edit.prompt)], pad_id=0, scores_last=True),
        ]
        assert [int(method.routes(batch)[0]) for batch in batches] == [0, 0, 0, 0]
        method.remove()


def test_merge_when_two_memories_are_full_then_one_is_left(llama: Backbone, tmp_path: Path) -> None:
    first, second = shards(llama, tmp_path, 2)
    method = make(llama, tmp_path)
    apply(method, llama, EDITS[0])
    assert torch.equal(memories(method)[0], first)
    assert method.trained_routes() == [0]
    apply(method, llama, EDITS[1])
    (merged,) = memories(method)
    torch.testing.assert_close(merged, (first + second) / 2)
    assert method.trained_routes() == [0, 0]
    apply(method, llama, EDITS[2])
    assert method.trained_routes() == [0, 0, 1]


@pytest.mark.parametrize(
    ("inference", "share", "weights"),
    [
        ("merge", None, [1 / 6, 1 / 6, 1 / 3, 1 / 3]),  # the earlier merge counts as one of three
        ("merge", 0.6, [0.3, 0.3, 0.2, 0.2]),
    ],
)
def test_merge_when_it_comes_again_then_the_earlier_one_takes_part(
    inference: str, share: float | None, weights: list[float], llama: Backbone, tmp_path: Path
) -> None:
    parts = shards(llama, tmp_path, 4)
    method = make(llama, tmp_path, inference=inference, merged_share=share)
    for edit in EDITS:
        apply(method, llama, edit)
    (merged,) = memories(method)
    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(merged, expected)
    assert method.trained_routes() == [0, 0, 0, 0]


def test_retrieval_when_memories_merge_again_then_each_merge_is_stored(
    llama: Backbone, tmp_path: Path
) -> None:
    parts = shards(llama, tmp_path, 4)
    method = make(llama, tmp_path, inference="retrieval")
    for edit in EDITS:
        apply(method, llama, edit)
    first, second = memories(method)
    torch.testing.assert_close(first, (parts[0] + parts[1]) / 2)
    torch.testing.assert_close(second, (parts[2] + parts[3]) / 2)
    assert method.trained_routes() == [0, 0, 1, 1]


def test_memory_when_it_is_not_full_then_the_next_edit_goes_into_it(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, edits_per_memory=3, merge="none")
    for edit in EDITS:
        apply(method, llama, edit)
    assert method.trained_routes() == [0, 0, 0, 1]


def test_routes_then_the_most_activated_memory_above_its_threshold_answers(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, merge="none", inference="retrieval")
    apply(method, llama, EDITS[0])
    apply(method, llama, EDITS[1])
    tokens = prompts(llama, EDITS[0].prompt)
    read = method._editor.site.read(tokens)
    mask = read.tokens.prompt_mask
    own, other = method._editor.memories.activations(read.inputs, read.outputs, mask)[0].tolist()
    method._least = [own, other]  # both reach .88 of it: the larger activation decides
    assert method.routes(tokens).tolist() == [0 if own > other else 1]
    method._least = [own / 0.8, other]  # .88 / .8 > 1: the first falls short
    assert method.routes(tokens).tolist() == [1]
    method._least = [own / 0.8, other / 0.8]
    assert method.routes(tokens).tolist() == [-1]
    before, _ = method._editor.site.split.logits(tokens)
    assert torch.equal(method.logits(tokens)[0], before)


def test_threshold_ratio_of_one_then_edited_prompts_still_reach_it(
    backbone: Backbone, tmp_path: Path
) -> None:
    method = make(backbone, tmp_path, threshold_ratio=1.0, edits_per_memory=9)
    apply(method, backbone, *EDITS)
    tokens = prompts(backbone, *(edit.prompt for edit in EDITS))
    assert method.routes(tokens).tolist() == [0, 0, 0, 0]
    alone = [int(method.routes(prompts(backbone, edit.prompt))[0]) for edit in EDITS]
    assert alone == [0, 0, 0, 0]


@pytest.mark.parametrize("decay_on", ["all", "masked"])
def test_weight_decay_then_the_side_weight_outside_the_mask_shrinks_or_stays(
    decay_on: str, backbone: Backbone, tmp_path: Path
) -> None:
    method = make(backbone, tmp_path, weight_decay=0.01, decay_on=decay_on)
    apply(method, backbone, EDITS[0])
    editor = method._editor
    (delta,), (mask,) = editor.memories.deltas, editor.memories.masks
    # five steps, each of which leaves 1 - rate * decay of W + D where no gradient acts
    left = (1 - editor.sgd_lr * 0.01) ** 5 if decay_on == "all" else 1.0
    expected = (left - 1) * editor.weight
    torch.testing.assert_close(delta[~mask], expected[~mask], atol=1e-6, rtol=1e-4)
    assert not torch.allclose(delta[mask], expected[mask], atol=1e-6)


def test_norm_bound_then_no_entry_leaves_the_box(llama: Backbone, tmp_path: Path) -> None:
    method = make(llama, tmp_path, norm_bound=1e-4)
    apply(method, llama, EDITS[0])
    assert float(memories(method)[0].abs().max()) == pytest.approx(1e-4)


@pytest.mark.parametrize("name", ["wise_merge", "wise_retrieval"])
def test_yaml_then_paper_and_public_code_differ_in_six_settings(name: str) -> None:
    values = read_method(name)
    settings = method_settings(values)
    reference = values["presets"]["llama2_7b"]["arm"]
    for preset in (reference, read_presets("facts", name), read_presets("facts_zsre", name)):
        assert preset
        assert set(preset) <= set(settings)
        build_config("wise", settings | preset)
    assert sorted(key for key in reference if reference[key] != settings[key]) == [
        "activation",
        "hinge_mean",
        "merged_share",
        "norm_bound",
        "threshold_ratio",
        "weight_decay",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inference": "both"}, "method.inference is 'both'; allowed: merge, retrieval"),
        ({"num_memories": 0}, "method.num_memories is 0; it must be at least 1"),
        ({"edits_per_memory": 0}, "method.edits_per_memory is 0; it must be at least 1"),
        ({"mask_ratio": 1.5}, r"method.mask_ratio is 1.5; it must lie in \(0, 1\]"),
        ({"margin_unit": "norm"}, "method.margin_unit is 'norm'; allowed: absolute, residual"),
        ({"merged_share": 1.5}, r"method.merged_share is 1.5; it must lie in \[0, 1\]"),
        ({"norm_bound": 0.0}, "method.norm_bound is 0.0; it must be above 0"),
        ({"edit_lr": 0.0}, "method.edit_lr is 0.0; it must be above 0"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)
