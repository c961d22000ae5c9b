"""Every method on backbones in float16 and bfloat16, alone and beside one in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import VARIANTS
from tests.contract.test_every_method import (
    EDITS,
    METHODS,
    MORE_EDITS,
    READERS,
    answers,
    apply,
    artefacts,
    batch_loss,
    make,
    with_chunker,
)
from trainables.artefacts import Artefacts
from trainables.backbones.loading import Dtype, load_backbone
from trainables.backbones.pristine import Pristine
from trainables.interfaces import Backbone
from trainables.moe.entities import Chunker
from trainables.prompts import edit_batch
from trainables.states import read_state, snapshot, write_state

__all__ = ["artefacts"]  # a fixture
NARROW: tuple[Dtype, ...] = ("float16", "bfloat16")
ARMS = [name for name in METHODS if name not in VARIANTS]
# Methods that write a weight of the backbone.
WRITERS = ("alphaedit", "ft_ewc", "ft_m", "malmen", "memit", "mend", "rome", "ultraedit")


def edited(name: str, backbone: Backbone, shared: Artefacts) -> torch.Tensor:
    """Logits after one batch; the backbone is put back."""
    method = make(name, backbone, shared)
    apply(method, backbone, EDITS)
    found = answers(method, backbone)
    method.remove()
    return found


@pytest.mark.parametrize("name", ARMS)
def test_other_dtype_in_the_same_process_then_each_answers_as_alone(
    name: str, checkpoints: dict[str, Path], tmp_path: Path, chunker: Chunker
) -> None:
    shared = with_chunker(tmp_path / "shared", chunker)
    for index, dtype in enumerate(("float32", "bfloat16", "float32")):
        backbone = load_backbone(checkpoints["llama"], dtype=dtype)
        expected = edited(name, backbone, with_chunker(tmp_path / f"alone_{index}", chunker))
        assert torch.equal(edited(name, backbone, shared), expected)


@pytest.mark.parametrize("name", [name for name in ARMS if name not in ("no_edit", *READERS)])
def test_batch_in_float16_then_its_loss_falls_and_the_backbone_comes_back(
    name: str, checkpoints: dict[str, Path], artefacts: Artefacts
) -> None:
    backbone = load_backbone(checkpoints["llama"], dtype="float16")
    pristine = Pristine(backbone.model, full_every=1)
    method = make(name, backbone, artefacts)
    before = batch_loss(method, backbone)
    apply(method, backbone, EDITS)
    assert batch_loss(method, backbone) < before
    method.remove()
    pristine.check()


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", WRITERS)
def test_weight_in_low_precision_then_its_float32_copy_is_stored_and_goes_on(
    name: str, dtype: Dtype, checkpoints: dict[str, Path], artefacts: Artefacts, tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["llama"], dtype=dtype)
    method = make(name, backbone, artefacts)
    apply(method, backbone, EDITS)
    method.begin(edit_batch(backbone.tokenizer, MORE_EDITS, end=True))
    method.advance(5)
    stored = snapshot(method.state())
    weights = [value for key, value in stored.tensors.items() if key.startswith("weight")]
    assert {weight.dtype for weight in weights} == {torch.float32}
    # What the backbone runs on is that copy, rounded: the copy itself holds what rounding loses.
    assert any(not torch.equal(weight, weight.to(backbone.dtype).float()) for weight in weights)
    moments = [value for key, value in stored.tensors.items() if "exp_avg" in key]
    assert {moment.dtype for moment in moments} <= {torch.float32}
    assert bool(moments) == (method.num_steps > 0)  # none of what is solved for at once
    write_state(tmp_path / "state", stored)

    def to_the_end() -> torch.Tensor:
        while not method.advance(5):
            pass
        method.finish()
        return answers(method, backbone)

    expected = to_the_end()
    method.remove()
    method = make(name, backbone, artefacts)
    read = read_state(tmp_path / "state")
    assert read is not None
    method.load(read)
    assert torch.equal(to_the_end(), expected)
    method.remove()
