"""GECE as the frequency of records, on a tiny backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.assemblies.gece import Corpus, calibration
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.edits.drawing import banded
from trainables.edits.frequency import _SETTINGS, with_gece
from trainables.edits.sources import Source
from trainables.interfaces import Backbone, EditRecord
from trainables.prompts import edit_batch
from trainables.spec import DatasetSpec


def test_with_gece_when_banded_then_the_least_gece_stands_for_the_most_frequent(
    llama: Backbone, tmp_path: Path
) -> None:
    records = tuple(
        EditRecord(str(n), f"the capital of land {n} is", f"town {n}", true_answer="old town")
        for n in range(6)
    )
    source = Source(records, (), (), "digest")
    ranked = with_gece(source, llama, Artefacts(tmp_path))
    assert [replaced.record_id for replaced in ranked.records] == [r.record_id for r in records]
    scores = torch.tensor([record.frequency for record in ranked.records], dtype=torch.float64)
    assert torch.isfinite(scores).all()
    assert len(set(scores.tolist())) > 1
    half = DatasetSpec("any", "report", frequency_band=[0.0, 0.5], frequency_source="gece")
    # A frequency is minus a GECE: the three largest are the half with the least GECE.
    kept = {record.record_id for record in banded(half, ranked).records}
    best = {str(int(n)) for n in scores.topk(3).indices}
    assert kept == best


def test_with_gece_when_nothing_is_trained_on_then_words_are_counted_in_what_is_ranked(
    llama: Backbone, tmp_path: Path
) -> None:
    """Eq. 9 divides by alpha: of words that occur nine times and once, each counted once more."""
    subjects = ["rare", *["common"] * 9]
    records = tuple(
        EditRecord(str(n), f"{subject} {n} is", "far", subject, true_answer="near")
        for n, subject in enumerate(subjects)
    )
    source, store = Source(records, (), (), "digest", part="all"), Artefacts(tmp_path)
    ranked = with_gece(source, llama, store)
    batch = edit_batch(llama.tokenizer, [source.to_edit(r) for r in records], end=True)
    layer, cache = llama.num_layers // 2, store.prefix_cache
    parts = Split(llama, layer, cache), Site(llama, layer, llama.down_path(layer), cache)
    alike = calibration(batch, _SETTINGS, *parts, store, Corpus({})).gece.tolist()
    rare, common = (-ranked.records[n].frequency / alike[n] for n in (0, 1))
    assert rare / common == pytest.approx((9 + 1) / (1 + 1))
    assert ranked.ranked == {
        "ranked_by_word_frequency_from_prompt": 0,
        "ranked_by_word_frequency_without_words": 0,
        "ranked_by_gece_without_true_answer": 0,
    }


def test_with_gece_when_done_again_then_the_stored_parts_give_the_same(
    llama: Backbone, tmp_path: Path
) -> None:
    records = tuple(EditRecord(str(n), f"land {n} is", "far", true_answer="near") for n in range(4))
    source = Source(records, (), (), "digest")
    first = with_gece(source, llama, Artefacts(tmp_path))
    assert with_gece(source, llama, Artefacts(tmp_path)) == first
