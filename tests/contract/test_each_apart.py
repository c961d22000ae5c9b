"""Single edits with a method each, which pass the frozen layers together, end as by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.test_every_method import EDITS, METHODS, make, with_chunker
from tests.contract.test_packed import PACKABLE, apart
from tests.contract.test_side_by_side import NAMES, SETTINGS, alone, check_alike, together
from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.interfaces import Backbone, EditMethod
from trainables.moe.entities import Chunker
from trainables.prompts import edit_batch
from trainables.states import read_state, write_state
from trainables.trials.packs.edits import EachApart, most_apart

OTHERS = [name for name in METHODS if name not in NAMES]  # these learn side by side by themselves
NEEDY = [name for name in OTHERS if name in PACKABLE]
# Of gemma2, in float32 alone, large steps of Adam make much of what is rounded otherwise.
SMALLER_STEPS = SETTINGS | {"edit_lr": 0.01}


@pytest.fixture
def artefacts(tmp_path: Path, chunker: Chunker) -> Artefacts:
    return with_chunker(tmp_path / "artefacts", chunker)


def maker(name: str, backbone: Backbone, artefacts: Artefacts) -> Callable[[], EditMethod]:
    return lambda: make(name, apart(name, backbone), artefacts, **SMALLER_STEPS)


@pytest.mark.parametrize("name", OTHERS)
def test_methods_whose_steps_can_be_taken_together_learn_several_edits_at_a_time(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = make(name, llama, artefacts)
    method.begin(edit_batch(llama.tokenizer, EDITS[:1], end=True))
    assert (most_apart(method) > 1) == (name in NEEDY)


@pytest.mark.parametrize("name", NEEDY)
def test_each_edit_ends_as_by_itself(name: str, backbone: Backbone, artefacts: Artefacts) -> None:
    if backbone.family.name != "gemma2":  # of which transformers makes NaN at some rows in float64
        backbone.model.double()  # Adam divides by the gradient's size: rounding would grow
    pristine = Pristine(backbone.model, full_every=1)
    expected = alone(name, backbone, artefacts, **SMALLER_STEPS)
    each = EachApart(maker(name, backbone, artefacts))
    each.begin_each(edit_batch(backbone.tokenizer, EDITS, end=True))
    check_alike(together(each, backbone), expected)
    pristine.check()
    each.remove()
    pristine.check()


@pytest.mark.parametrize("name", NEEDY)
def test_edits_go_on_from_a_state_elsewhere(
    name: str, checkpoints: dict[str, Path], artefacts: Artefacts, tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["llama"])
    expected = alone(name, backbone, artefacts, **SMALLER_STEPS)
    each = EachApart(maker(name, backbone, artefacts))
    each.begin_each(edit_batch(backbone.tokenizer, EDITS, end=True))
    each.advance(2)
    write_state(tmp_path / "state", each.state())
    state = read_state(tmp_path / "state")
    assert state is not None
    backbone = load_backbone(checkpoints["llama"])
    each = EachApart(maker(name, backbone, artefacts))
    each.load(state)
    check_alike(together(each, backbone), expected)


def test_noise_of_a_router_is_drawn_as_for_the_edit_by_itself(
    llama: Backbone, artefacts: Artefacts
) -> None:
    settings = {"router_noise": 1.0, "routing_input": "token"}
    expected = alone("memoe_v1", llama, artefacts, **SMALLER_STEPS, **settings)
    each = EachApart(
        lambda: make("memoe_v1", apart("memoe_v1", llama), artefacts, **SMALLER_STEPS, **settings)
    )
    each.begin_each(edit_batch(llama.tokenizer, EDITS, end=True))
    check_alike(together(each, llama), expected)
