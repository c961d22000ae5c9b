"""A backbone whose layers do not lie together.

Without GPUs the layers that are not edited lie on disk: accelerate's hooks fetch them when they
run, between the runs their weights are on `meta`, and whatever a method made beside them would be
there too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from accelerate.utils import compute_module_sizes
from transformers import AutoModelForCausalLM

from tests.conftest import FAMILIES, tiny_config
from tests.contract.test_every_method import (
    EDITS,
    METHODS,
    MORE_EDITS,
    TINY,
    answers,
    apply,
    make,
    with_chunker,
)
from trainables.artefacts import Artefacts
from trainables.backbones.families import get_family
from trainables.backbones.sharding import device_map
from trainables.interfaces import Backbone
from trainables.moe.entities import Chunker
from trainables.states import snapshot

HOME = (1, 2)  # the layers that the methods edit


def meta_model(family: str, num_layers: int) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny_config(family, num_layers))


@pytest.mark.parametrize("family", FAMILIES)
def test_device_map_places_every_weight_once_and_whole_layers_only(family: str) -> None:
    model, parts = meta_model(family, 12), get_family(family)
    placed = device_map(model, parts, [5], 3)
    for name, _ in model.named_parameters():
        assert sum(name.startswith(f"{part}.") for part in placed) == 1, name
    assert set(placed.values()) == {0, 1, 2}
    (head,) = [n for n, m in model.named_modules() if m is model.get_output_embeddings()]
    at_home = [f"{parts.layers}.5", parts.embedding, parts.final_norm, head]
    assert {placed[name] for name in at_home} == {0}
    away = [placed[f"{parts.layers}.{i}"] for i in range(12) if placed[f"{parts.layers}.{i}"]]
    assert away == sorted(away)  # runs of layers: states change device twice, not at each layer


def test_device_map_gives_every_device_about_as_many_bytes() -> None:
    model, family = meta_model("llama", 32), get_family("llama")
    placed, sizes = device_map(model, family, [18], 4), compute_module_sizes(model)
    load = [sum(sizes[name] for name, at in placed.items() if at == device) for device in range(4)]
    assert max(load) - min(load) <= 2 * sizes["model.layers.0"]


def test_device_map_when_a_method_makes_much_then_other_layers_leave_it_room() -> None:
    model, family = meta_model("llama", 32), get_family("llama")
    sizes = compute_module_sizes(model)
    layer = sizes["model.layers.0"]
    for beside in (6 * layer, 100 * layer):
        placed = device_map(model, family, [18], 4, beside)
        load = [
            sum(sizes[name] for name, at in placed.items() if at == device) for device in range(4)
        ]
        alone = sizes["model.embed_tokens"] + sizes["lm_head"] + sizes["model.norm"] + layer
        assert load[0] == pytest.approx(max(alone, (sizes[""] + beside) / 4 - beside), abs=layer)
        assert max(load[1:]) - min(load[1:]) <= 2 * layer


def scattered(backbone: Backbone, folder: Path) -> None:
    placed: dict[str, str] = {
        name: "cpu" for name in device_map(backbone.model, backbone.family, HOME, 2)
    }
    for layer in set(range(backbone.num_layers)) - set(HOME):
        placed[backbone.layer_path(layer)] = "disk"
    dispatch_model(
        backbone.model,
        placed,
        main_device="cpu",
        offload_dir=str(folder),
        skip_keys=backbone.model._skip_keys_device_placement,
    )
    assert backbone.model.get_submodule(backbone.down_path(3)).weight.is_meta


@pytest.mark.parametrize("name", METHODS)
def test_method_on_a_scattered_backbone_makes_and_answers_what_it_does_on_a_whole_one(
    name: str, llama: Backbone, tmp_path: Path, chunker: Chunker
) -> None:
    assert {TINY["edit_layer"], *TINY["layers"]} == set(HOME)
    found = []
    for is_scattered in (False, True):
        if is_scattered:
            scattered(llama, tmp_path / "weights")
        artefacts = with_chunker(tmp_path / f"artefacts-{is_scattered}", chunker)
        method = make(name, llama, artefacts)
        for edits in (EDITS, MORE_EDITS):
            apply(method, llama, edits)
        found.append((answers(method, llama), snapshot(method.state()).tensors))
        method.remove()
    assert torch.equal(found[0][0], found[1][0])
    for key, value in found[1][1].items():
        assert value.device.type == "cpu", key
        assert torch.equal(value, found[0][1][key]), key


def test_rows_in_micro_batches_pass_layers_that_lie_elsewhere(
    llama: Backbone, tmp_path: Path
) -> None:
    found = []
    for is_scattered in (False, True):
        if is_scattered:
            scattered(llama, tmp_path / "weights")
        llama.micro_batch.limit = 2
        method = make("lemoe", llama, Artefacts(tmp_path / "artefacts"))
        apply(method, llama, EDITS)
        found.append(answers(method, llama))
        method.remove()
    assert torch.equal(found[0], found[1])
