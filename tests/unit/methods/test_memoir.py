"""MEMOIR: masks by hand, and that an edit writes and reads its own columns alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden.test_memoir_equations import CONFIG as SETTINGS
from tests.golden.test_memoir_equations import EDITS, UNRELATED
from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit, EditReport, PromptBatch, TrainingRecord
from trainables.methods.memoir.masks import Masks, named_columns, pooled_mean
from trainables.methods.memoir.method import Memoir
from trainables.prompts import Row, collate, edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import snapshot

CONFIG = replace(SETTINGS, edit_lr=1.0, clip_norm=1.0, num_steps=8, weight_decay=0.0)
LATER = Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay", ("Who wrote it?", "Where is it?"))


def make(backbone: Backbone, folder: Path, **changes: Any) -> Memoir:
    method = Memoir(replace(CONFIG, **changes), backbone, Artefacts(folder), trial_generators(0))
    method.prepare([TrainingRecord(Edit(text, "x")) for text in UNRELATED])
    return method


def apply(method: Memoir, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(5):
        pass
    return method.finish()


def test_named_columns_then_the_permuted_places_of_the_largest_entries() -> None:
    pooled = torch.tensor([[1.0, -5.0, 0.5, 3.0], [2.0, 0.1, -0.2, 0.0]])
    # the largest are entries 1 and 3, and 0 and 2; they stand for columns 0 and 1, and 3 and 2
    named = named_columns(pooled, 2, torch.tensor([3, 0, 2, 1]))
    assert named.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_pooled_mean_then_of_counted_tokens_alone() -> None:
    inputs = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [50.0, 50.0]]])
    assert pooled_mean(inputs, torch.tensor([[True, True, False]])).tolist() == [[2.0, 4.0]]


def masks_of(*rows: list[int], pooling: Any = "mean", threshold: float = 0.5) -> Masks:
    masks = Masks(4, 2, pooling, threshold, torch.Generator().manual_seed(0), torch.device("cpu"))
    masks._permutation = torch.arange(4)
    for row in rows:
        masks.add(torch.tensor(row).bool())
    return masks


def query(*values: float) -> tuple[Tensor, PromptBatch, Tensor]:
    tokens = collate([Row((5,), 1)], pad_id=0)
    return torch.tensor([[values]]), tokens, torch.ones(1, 1, dtype=torch.bool)


def test_nearest_then_the_edit_with_most_columns_in_common_if_they_suffice() -> None:
    masks = masks_of([1, 1, 0, 0], [0, 1, 1, 0])
    assert masks.nearest(*query(0.0, 5.0, 6.0, 1.0)).tolist() == [1]
    assert masks.nearest(*query(9.0, 0.0, 0.0, 7.0)).tolist() == [0]  # one of two: half
    stricter = masks_of([1, 1, 0, 0], [0, 1, 1, 0], threshold=0.6)
    assert stricter.nearest(*query(9.0, 0.0, 0.0, 7.0)).tolist() == [-1]


def test_add_when_two_edits_share_a_mask_then_the_first_names_it() -> None:
    masks = masks_of([1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0])
    assert masks.owners == [0, 1, 0]
    assert masks.nearest(*query(5.0, 5.0, 0.0, 0.0)).tolist() == [0]


def test_named_when_centred_then_what_all_prompts_have_does_not_count() -> None:
    masks = masks_of(pooling="centred_mean")
    assert masks.wants_centre
    masks.centre = torch.tensor([9.0, 0.0, 0.0, 0.0])
    assert masks.named(*query(9.0, 2.0, 1.0, 0.5)).tolist() == [[False, True, True, False]]
    assert masks_of().named(*query(9.0, 2.0, 1.0, 0.5)).tolist() == [[True, True, False, False]]


def test_edits_then_only_their_own_columns_are_written(llama: Backbone, tmp_path: Path) -> None:
    method = make(llama, tmp_path)
    before = torch.zeros(llama.hidden_size, llama.ffn_size)
    for edit in EDITS:
        apply(method, llama, edit)
        state = snapshot(method.state()).tensors
        own = state["masks/rows"][-1]
        change = state["memory"] - before
        before = state["memory"]
        assert float(change[:, ~own].abs().max()) == 0
        assert int((change[:, own].abs().amax(0) > 0).sum()) == int(own.sum()) == 12  # of 48
    method.remove()


def test_decay_then_columns_of_earlier_edits_shrink(llama: Backbone, tmp_path: Path) -> None:
    method = make(llama, tmp_path, weight_decay=0.01, num_steps=5)
    apply(method, llama, EDITS[0])
    first = snapshot(method.state()).tensors["memory"]
    apply(method, llama, EDITS[1])
    state = method.state().tensors
    alone = state["masks/rows"][0] & ~state["masks/rows"][1]
    assert int(alone.sum()) > 0
    # five steps at rate 1
    torch.testing.assert_close(state["memory"][:, alone], 0.99**5 * first[:, alone])
    method.remove()


def test_prompts_far_from_all_edits_then_the_backbones_own_logits_bit_for_bit(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, overlap_threshold=0.9)
    rows = [tokenise(llama.tokenizer, text, "Bar") for text in (EDITS[0].prompt, "7 + 2 =", "Ivo")]
    batch = collate(rows, pad_id=0)
    with torch.no_grad():
        expected, _ = Split(llama, CONFIG.edit_layer, PrefixCache()).logits(batch)
    apply(method, llama, *EDITS)
    with torch.no_grad():
        found, _ = method.logits(batch)
    assert method.routes(batch).tolist() == [0, -1, -1]
    ends = [0, *torch.tensor(batch.scored_counts).cumsum(0).tolist()]
    assert torch.equal(found[ends[1] :], expected[ends[1] :])
    assert not torch.allclose(found[: ends[1]], expected[: ends[1]], atol=1e-2)
    method.remove()


def test_batch_then_as_one_edit_after_another(llama: Backbone, tmp_path: Path) -> None:
    found = []
    for batches in ((EDITS,), tuple((edit,) for edit in EDITS)):
        method = make(llama, tmp_path, num_prefixes=2)
        steps = [apply(method, llama, *edits).num_steps for edits in batches]
        assert sum(steps) == 2 * CONFIG.num_steps
        found.append(snapshot(method.state()).tensors["memory"])
        method.remove()
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("edits", "pooling", "counts"),
    [
        ((LATER,), "centred_mean", {"centre_from_edits": 1}),
        (EDITS, "centred_mean", {"uncentred": 1}),
        (EDITS, "last", {}),
    ],
)
def test_counts_when_no_part_is_there_to_take_the_mean_of(
    edits: tuple[Edit, ...], pooling: Any, counts: dict[str, int], llama: Backbone, tmp_path: Path
) -> None:
    config = replace(CONFIG, pooling=pooling, num_steps=1)
    method = Memoir(config, llama, Artefacts(tmp_path), trial_generators(0))
    method.prepare([])
    assert apply(method, llama, *edits).counts == counts
    assert apply(method, llama, *edits).counts == {}  # it is taken once
    method.remove()


def test_centre_of_the_first_batch_then_neither_removed_nor_loaded_over_does_it_stay(
    llama: Backbone, tmp_path: Path
) -> None:
    method = Memoir(replace(CONFIG, num_steps=1), llama, Artefacts(tmp_path), trial_generators(0))
    method.prepare([])
    fresh = snapshot(method.state())
    for forget in (method.remove, lambda: method.load(fresh)):
        assert apply(method, llama, LATER).counts == {"centre_from_edits": 1}
        forget()
    assert "masks/centre" not in method.state().tensors

    prepared = make(llama, tmp_path)
    before = snapshot(prepared.state()).tensors["masks/centre"]
    prepared.remove()
    assert torch.equal(prepared.state().tensors["masks/centre"], before)


def test_clip_norm_then_no_step_is_longer(llama: Backbone, tmp_path: Path) -> None:
    method = make(llama, tmp_path, clip_norm=0.01, num_steps=1)
    apply(method, llama, EDITS[0])
    assert float(method.state().tensors["memory"].norm()) == pytest.approx(0.01, rel=1e-4)
    method.remove()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"active_share": 0.0}, "method.active_share is 0.0"),
        ({"overlap_threshold": 1.5}, "method.overlap_threshold is 1.5"),
        ({"pooling": "first"}, "is 'first'; allowed: centred_mean, mean, last"),
        ({"clip_norm": 0.0}, "method.clip_norm is 0.0"),
        ({"num_steps": 0}, "method.num_steps is 0"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)
