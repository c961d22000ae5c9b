"""Every method of search_spaces/method/ on a GPU: it answers as on the CPU, and leaves no trace.

Backbones are in double precision: rounding, which Adam makes large, is no part of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.contract.test_every_method import (
    EDITS,
    METHODS,
    MORE_EDITS,
    make,
    rows_of,
    with_chunker,
)
from trainables.backbones.loading import Device, load_backbone
from trainables.backbones.pristine import Pristine
from trainables.interfaces import Backbone, Edit, EditMethod
from trainables.moe.entities import Chunker
from trainables.prompts import collate, edit_batch
from trainables.states import read_state, snapshot, write_state

pytestmark = pytest.mark.gpu


def apply(method: EditMethod, backbone: Backbone, edits: Sequence[Edit]) -> None:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True, device=backbone.device))
    while not method.advance(5):
        pass
    method.finish()


def life(
    name: str, checkpoint: Path, device: Device, folder: Path, chunker: Chunker
) -> torch.Tensor:
    """Answers after two batches, between which the method is stored and built anew."""
    backbone = load_backbone(checkpoint, device=device)
    backbone.model.double()
    pristine, artefacts = Pristine(backbone.model), with_chunker(folder / device, chunker)
    method = make(name, backbone, artefacts)
    apply(method, backbone, EDITS)
    write_state(folder / "state", snapshot(method.state()))
    method.remove()
    pristine.check()
    method = make(name, backbone, artefacts)
    stored = read_state(folder / "state")
    assert stored is not None
    method.load(stored)
    apply(method, backbone, MORE_EDITS)
    prompts = collate(rows_of(backbone), pad_id=0, device=backbone.device)
    with torch.no_grad():
        logits, _ = method.logits(prompts)
    assert logits.device.type == device
    method.remove()
    pristine.check()
    return logits.cpu()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", METHODS)
def test_method_on_a_gpu_answers_as_on_the_cpu(
    name: str, family: str, checkpoints: dict[str, Path], tmp_path: Path, chunker: Chunker
) -> None:
    on_cpu, on_gpu = (
        life(name, checkpoints[family], device, tmp_path, chunker) for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-5, rtol=1e-5)
