"""A backbone seen apart: one layer has modules of its own, and tensors as far as asked for."""

from __future__ import annotations

import pytest
import torch

from trainables.backbones.pristine import Pristine
from trainables.backbones.seen_apart import seen_apart
from trainables.backbones.surgery import get_module
from trainables.interfaces import Backbone

LAYER = 2


def tensors(backbone: Backbone) -> dict[str, int]:
    named = [*backbone.model.named_parameters(), *backbone.model.named_buffers()]
    return {name: each.data_ptr() for name, each in named}


@pytest.mark.parametrize("owns_down", [False, True])
def test_tensors_are_shared_but_for_those_of_the_projection_that_is_trained(
    backbone: Backbone, owns_down: bool
) -> None:
    apart = seen_apart(backbone, LAYER, owns_down=owns_down)
    found, original = tensors(apart), tensors(backbone)
    assert found.keys() == original.keys()
    changed = {name for name in found if found[name] != original[name]}
    down = backbone.down_path(LAYER)
    own = {f"{down}.{name}" for name, _ in get_module(backbone.model, down).named_parameters()}
    assert changed == (own if owns_down else set())


def test_modules_of_the_layer_are_its_own_and_all_others_shared(backbone: Backbone) -> None:
    apart = seen_apart(backbone, LAYER)
    path, original = backbone.layer_path(LAYER), dict(backbone.model.named_modules())
    found = dict(apart.model.named_modules())
    assert found.keys() == original.keys()
    above = {path.rpartition(".")[0][:length] for length in range(len(path))}
    for name, module in found.items():
        is_own = name == path or name.startswith(f"{path}.") or name in above
        assert (module is not original[name]) == is_own, name


def test_what_is_written_to_the_projection_of_one_is_not_read_by_the_other(
    backbone: Backbone,
) -> None:
    ids = torch.arange(5, 13)[None]
    pristine = Pristine(backbone.model, full_every=1)
    with torch.no_grad():
        before = backbone.model(ids).logits
        apart = seen_apart(backbone, LAYER, owns_down=True)
        apart.model.get_parameter(f"{backbone.down_path(LAYER)}.weight").mul_(2)
        after = apart.model(ids).logits
        assert torch.equal(backbone.model(ids).logits, before)
    assert not torch.allclose(after, before)
    pristine.check()
