"""UltraEdit: its statistics and its solution by hand, and what it shifts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.errors import ConfigError, EditDiverged
from trainables.interfaces import Backbone, Edit, EditBatch, EditReport
from trainables.methods.ultraedit import Config, Running, UltraEdit, module_shift, wanted_values
from trainables.prompts import Row, collate, edit_batch, labels_of
from trainables.seeding import trial_generators

CONFIG = Config(
    layers=(2,),
    modules=("down",),
    gate_layers=None,
    edit_lr=1e-3,
    l2_weight=1.0,
    normalised_over="shape",
)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
    Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),
)


def make(backbone: Backbone, folder: Path, **changes: Any) -> UltraEdit:
    return UltraEdit(replace(CONFIG, **changes), backbone, Artefacts(folder), trial_generators(0))


def apply(method: UltraEdit, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    assert method.advance(1)
    return method.finish()


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_running_when_rows_come_in_parts_then_of_all_and_constants_are_zero() -> None:
    running = Running()
    running.update(double([1.0, 5.0]))
    assert torch.equal(running.normalised(double([1.0, 5.0])), double([0.0, 0.0]))  # one row alone
    running.update(double([3.0, 5.0], [5.0, 5.0]))
    # 1, 3, 5: mean 3, variance (4 + 0 + 4) / 2 = 4; the second coordinate never varied
    found = running.normalised(double([7.0, 5.0]))
    torch.testing.assert_close(found, double([2.0, 0.0]))
    assert running.num_rows == 3


def test_running_when_a_constant_is_large_then_what_rounding_leaves_of_it_does_not_count() -> None:
    running = Running()
    for _ in range(3):
        running.update(torch.full((7, 1), 0.1, dtype=torch.float64))
    assert torch.equal(running.normalised(double([0.1])), double([0.0]))


def test_wanted_values_and_shift_by_hand() -> None:
    # |(3, 4)|^2 = 25: -.1 x 25 x (2, -1) = (-5, 2.5)
    values = wanted_values(double([3.0, 4.0]), double([2.0, -1.0]), 0.1)
    torch.testing.assert_close(values, double([-5.0, 2.5]))
    # h = (1, 1, 0), l2 = 2: H^T (2 + 2)^-1 V = (1, 1, 0) x (-1.25, .625)
    shift = module_shift(double([1.0, 1.0, 0.0]), values, 2.0)
    torch.testing.assert_close(shift, double([-1.25, 0.625], [-1.25, 0.625], [0.0, 0.0]))
    # as many tokens as inputs, h = (1), (1), l2 = 2: (2 + 2)^-1 x (4 + 8) = 3
    torch.testing.assert_close(
        module_shift(double([1.0], [1.0]), double([4.0], [8.0]), 2.0), double([3.0])
    )


def test_finish_then_only_the_named_modules_are_shifted(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    llama, fused = (load_backbone(checkpoints[family]) for family in ("llama", "phi3"))
    changes = {"modules": ("gate", "up"), "layers": (1, 3), "gate_layers": (2,)}
    before = {k: v.clone() for k, v in llama.model.state_dict().items()}
    method = make(llama, tmp_path / "a", **changes)
    assert method.first_layer == 1
    apply(method, llama, *EDITS)
    after = llama.model.state_dict()
    names = {k for k in before if not torch.equal(after[k], before[k])}
    parts = {(1, llama.family.up), (3, llama.family.up), (2, llama.family.gate)}
    assert names == {f"{llama.layer_path(layer)}.{part}.weight" for layer, part in parts}

    path = f"{fused.layer_path(2)}.{fused.family.up}.weight"
    pristine = fused.model.get_parameter(path).detach().clone()
    apply(make(fused, tmp_path / "b", modules=("up",)), fused, *EDITS)
    gate, up = (fused.model.get_parameter(path).detach() - pristine).chunk(2)
    assert float(gate.abs().max()) == 0 < float(up.abs().max())


def test_size_of_a_shift_then_in_proportion_to_the_rate(llama: Backbone, tmp_path: Path) -> None:
    path, moved = f"{llama.down_path(2)}.weight", []
    for rate in (1e-3, 2e-3):
        method = make(llama, tmp_path, edit_lr=rate)
        pristine = llama.model.get_parameter(path).detach().clone()
        apply(method, llama, *EDITS)
        moved.append(llama.model.get_parameter(path).detach() - pristine)
        method.remove()
    torch.testing.assert_close(moved[1], 2 * moved[0], atol=1e-6, rtol=1e-3)


def test_finish_when_an_earlier_batch_broke_the_model_then_diverged(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, modules=("up", "down"), edit_lr=1e15)
    apply(method, llama, *EDITS)
    with pytest.raises(EditDiverged, match="closed form"):
        apply(method, llama, EDITS[0], EDITS[0])  # what enters them is huge, and the same twice


def test_statistics_when_a_batch_went_before_then_the_same_edit_is_shifted_otherwise(
    llama: Backbone, tmp_path: Path
) -> None:
    path, moved = f"{llama.down_path(2)}.weight", []
    for earlier in ((), EDITS[1:]):
        method = make(llama, tmp_path, edit_lr=1e-9)  # the weight hardly moves
        if earlier:
            apply(method, llama, *earlier)
        before = method.state().tensors[f"weight/2/{llama.family.down}"].double().clone()
        apply(method, llama, EDITS[0])
        moved.append(method.state().tensors[f"weight/2/{llama.family.down}"].double() - before)
        method.remove()
        assert not torch.equal(moved[-1], torch.zeros_like(before)), path
    assert float((moved[1] - moved[0]).norm()) > 0.1 * float(moved[0].norm())


def test_batch_of_one_token_alone_then_nothing_changes_and_it_is_counted(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path)
    before = method.state().tensors[f"weight/2/{llama.family.down}"].clone()
    tokens = collate([Row((5, 6, 7), 2)], pad_id=0)
    method.begin(EditBatch((Edit("a", "b"),), tokens, labels_of(tokens)))
    assert method.finish().counts == {"no_statistics": 1}
    assert torch.equal(method.state().tensors[f"weight/2/{llama.family.down}"], before)
    assert apply(method, llama, *EDITS).counts == {"no_statistics": 0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": ()}, r"method.layers is \[\]; name at least one, from 0, each once"),
        ({"layers": (1, 1)}, r"method.layers is \[1, 1\]"),
        ({"modules": ()}, r"method.modules is \[\]; name at least one of gate, up, down"),
        ({"modules": ("gates",)}, "method.modules is"),
        ({"gate_layers": (1,)}, r"method.gate_layers is \[1\] with .*; gate must be among them"),
        ({"edit_lr": 0.0}, "method.edit_lr is 0.0"),
        ({"normalised_over": "layer"}, "is 'layer'; allowed: shape, module"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_places_when_they_are_not_there_then_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    gpt2 = load_backbone(checkpoints["gpt2"])
    with pytest.raises(ConfigError, match="family 'gpt2' has none; allowed: up, down"):
        make(gpt2, tmp_path, modules=("gate",))
    with pytest.raises(ConfigError, match=r"method.layers is \[9\]; allowed: 0 to 3"):
        make(gpt2, tmp_path, layers=(9,))
    llama = load_backbone(checkpoints["llama"])
    with pytest.raises(ConfigError, match=r"method.gate_layers is \[9\]; allowed: 0 to 3"):
        make(llama, tmp_path, modules=("gate",), gate_layers=(9,))
