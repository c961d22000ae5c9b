"""Edits that are learned side by side end as each does by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.test_every_method import EDITS, METHODS, answers, make, with_chunker
from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.bases import read_method
from trainables.interfaces import Backbone, EditMethod, EditReport, SideBySide
from trainables.moe.entities import Chunker
from trainables.prompts import edit_batch
from trainables.states import read_state, write_state
from trainables.trials.measurements import edit_bytes
from trainables.trials.packs.edits import EachApart

NAMES = [name for name in METHODS if (read_method(name).get("cost") or {}).get("side_by_side")]
# The second edit stops by its loss before the others, one is bounded in its box.
SETTINGS: dict[str, Any] = {"edit_lr": 0.02, "num_steps": 8, "stop_loss": 0.5, "norm_bound": 0.03}

# Where one weight makes queries and keys, some gradients are rounding alone, of which Adam makes
# whole steps.
_IN_FLOAT64 = ("lora",)


@pytest.fixture
def artefacts(tmp_path: Path, chunker: Chunker) -> Artefacts:
    return with_chunker(tmp_path / "artefacts", chunker)


def alone(
    name: str, backbone: Backbone, artefacts: Artefacts, **settings: Any
) -> list[tuple[EditReport, torch.Tensor]]:
    found = []
    for edit in EDITS:
        method = make(name, backbone, artefacts, **settings)
        method.begin(edit_batch(backbone.tokenizer, [edit], end=True))
        while not method.advance(3):
            pass
        report = method.finish()
        found.append((report, answers(method, backbone)))
        method.remove()
    return found


def together(
    method: EditMethod | EachApart, backbone: Backbone
) -> list[tuple[EditReport, torch.Tensor]]:
    assert isinstance(method, SideBySide | EachApart)
    while not method.advance(3):
        pass
    found = []
    for number, report in enumerate(method.finish_each()):
        method.take(number)
        answering = method.taken if isinstance(method, EachApart) else method
        found.append((report, answers(answering, backbone)))
    return found


def check_alike(
    found: list[tuple[EditReport, torch.Tensor]], expected: list[tuple[EditReport, torch.Tensor]]
) -> None:
    assert [report.num_steps for report, _ in found] == [report.num_steps for report, _ in expected]
    for (report, logits), (own_report, own_logits) in zip(found, expected, strict=True):
        assert report.final_loss == pytest.approx(own_report.final_loss, abs=1e-4)
        assert report.numbers == pytest.approx(own_report.numbers, abs=1e-3)
        # Of gemma2 transformers makes NaN at some rows in float64: of both, or it is a difference.
        torch.testing.assert_close(logits, own_logits, atol=1e-3, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_s_file_says_of_edits_side_by_side_is_true(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = make(name, llama, artefacts)
    most = method.most_side_by_side if isinstance(method, SideBySide) else 1
    assert (most > 1) == (name in NAMES)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("name", NAMES)
def test_each_edit_ends_as_by_itself(
    name: str, limit: int | None, backbone: Backbone, artefacts: Artefacts
) -> None:
    if name in _IN_FLOAT64:
        backbone.model.double()
    original = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    expected = alone(name, backbone, artefacts, **SETTINGS)
    method = make(name, backbone, artefacts, **SETTINGS)
    assert isinstance(method, SideBySide)
    backbone.micro_batch.limit = limit
    method.begin_each(edit_batch(backbone.tokenizer, EDITS, end=True))
    check_alike(together(method, backbone), expected)
    method.remove()
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, original[key]), key
    assert not any(each.requires_grad for each in backbone.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_an_edit_adds_are_those_of_one_learned_by_itself(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    own = []
    for edit in EDITS:
        method = make(name, llama, artefacts, **SETTINGS)
        method.begin(edit_batch(llama.tokenizer, [edit], end=True))
        while not method.advance(3):
            pass
        method.finish()
        own.append(edit_bytes(method))
        method.remove()
    method = make(name, llama, artefacts, **SETTINGS)
    assert isinstance(method, SideBySide)
    method.begin_each(edit_batch(llama.tokenizer, EDITS, end=True))
    while not method.advance(3):
        pass
    method.finish_each()
    for number, expected in enumerate(own):
        method.take(number)
        assert edit_bytes(method) == expected
    method.remove()


@pytest.mark.parametrize("name", NAMES)
def test_edits_side_by_side_go_on_from_a_state_elsewhere(
    name: str, checkpoints: dict[str, Path], artefacts: Artefacts, tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["llama"])
    method = make(name, backbone, artefacts, **SETTINGS)
    assert isinstance(method, SideBySide)
    expected = alone(name, backbone, artefacts, **SETTINGS)
    method.begin_each(edit_batch(backbone.tokenizer, EDITS, end=True))
    method.advance(2)
    method.take(1)  # a score in the middle changes nothing of what is learned
    write_state(tmp_path / "state", method.state())
    backbone = load_backbone(checkpoints["llama"])
    method = make(name, backbone, artefacts, seed=99, **SETTINGS)
    state = read_state(tmp_path / "state")
    assert state is not None
    method.load(state)
    check_alike(together(method, backbone), expected)
