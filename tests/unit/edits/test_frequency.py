"""GECE as the frequency of records, on a tiny backbone."""

from __future__ import annotations

from pathlib import Path

import torch

from trainables.artefacts import Artefacts
from trainables.edits.drawing import banded
from trainables.edits.frequency import with_gece
from trainables.edits.sources import Source
from trainables.interfaces import Backbone, EditRecord
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


def test_with_gece_when_done_again_then_the_stored_parts_give_the_same(
    llama: Backbone, tmp_path: Path
) -> None:
    records = tuple(EditRecord(str(n), f"land {n} is", "far", true_answer="near") for n in range(4))
    source = Source(records, (), (), "digest")
    first = with_gece(source, llama, Artefacts(tmp_path))
    assert with_gece(source, llama, Artefacts(tmp_path)) == first
