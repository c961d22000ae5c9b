from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit, EditReport
from trainables.methods import ft
from trainables.methods.ft_ewc import Config, ElasticFineTuning, Penalty
from trainables.prompts import edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import snapshot

LAYER = 2
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
    Edit("Ada Quell works for", "Lumen Works", "Ada Quell"),
)
NEXT = (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),)


def config(**changes: object) -> Config:
    values = {
        "edit_layer": LAYER,
        "edit_lr": 0.003,
        "num_steps": 5,
        "penalty_weight": 0.1,
        "num_replayed": 10,
    }
    return Config(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def method_of(backbone: Backbone, artefacts: Artefacts, **changes: object) -> ElasticFineTuning:
    return ElasticFineTuning(config(**changes), backbone, artefacts, trial_generators(0))


def edit(method: object, backbone: Backbone, edits: tuple[Edit, ...]) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=False))  # type: ignore[attr-defined]
    while not method.advance(3):  # type: ignore[attr-defined]
        pass
    return method.finish()  # type: ignore[attr-defined, no-any-return]


def weight_of(backbone: Backbone) -> Tensor:
    return backbone.model.get_parameter(f"{backbone.down_path(LAYER)}.weight").detach().clone()


def test_penalty_by_hand() -> None:
    importance = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    anchor = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    weight = torch.tensor([[2.0, 0.0], [6.0, 3.0]])
    # 1 * 1^2 + 2 * (-1)^2 + 0 * 5^2 + 3 * 2^2
    assert Penalty(importance, anchor).of(weight).item() == 15.0


def test_without_a_penalty_each_step_is_that_of_ft_m(llama: Backbone, artefacts: Artefacts) -> None:
    method = method_of(llama, artefacts, penalty_weight=0.0)
    for edits in (EDITS, NEXT):
        edit(method, llama, edits)
    found = weight_of(llama)
    method.remove()
    settings = ft.Config(
        edit_layer=LAYER,
        loss="target_new",
        edit_lr=0.003,
        num_steps=5,
        stop_loss=0.0,
        norm_bound=None,
        mini_batch_size=None,
    )
    plain = ft.FineTuning(settings, llama, artefacts, trial_generators(0))
    for edits in (EDITS, NEXT):
        assert edit(plain, llama, edits).num_steps == 5
    assert torch.equal(weight_of(llama), found)


def test_penalty_holds_from_the_second_batch_on(llama: Backbone, artefacts: Artefacts) -> None:
    first, moved = [], []
    for penalty_weight in (0.0, 1e4):
        method = method_of(llama, artefacts, penalty_weight=penalty_weight)
        edit(method, llama, EDITS)
        first.append(weight_of(llama))
        edit(method, llama, NEXT)
        moved.append(float((weight_of(llama) - first[-1]).norm()))
        method.remove()
    assert torch.equal(first[0], first[1])
    assert moved[1] < 0.9 * moved[0]


def squared_gradient(backbone: Backbone, asked: Edit) -> Tensor:
    """Of one edit's NLL at the present weight, by autograd through the whole model."""
    row = tokenise(backbone.tokenizer, asked.prompt, asked.target_new)
    weight = backbone.model.get_parameter(f"{backbone.down_path(LAYER)}.weight")
    was_trained = weight.requires_grad
    weight.requires_grad_(True)
    logits = backbone.model(input_ids=torch.tensor([row.ids])).logits[0]
    loss = torch.nn.functional.cross_entropy(
        logits[row.prompt_length - 1 : -1], torch.tensor(row.target)
    )
    (gradient,) = torch.autograd.grad(loss, weight)
    weight.requires_grad_(was_trained)
    return gradient**2


def test_importance_is_the_mean_over_the_latest_edits_and_the_anchor_the_weight_they_left(
    backbone: Backbone, artefacts: Artefacts
) -> None:
    method = method_of(backbone, artefacts, num_replayed=2)
    edit(method, backbone, EDITS)  # the first of the three is forgotten
    left = weight_of(backbone)
    expected = (squared_gradient(backbone, EDITS[1]) + squared_gradient(backbone, EDITS[2])) / 2
    method.begin(edit_batch(backbone.tokenizer, NEXT, end=False))
    method.advance(2)
    held = snapshot(method.state()).tensors
    assert torch.equal(held["anchor"], left)
    scale = float(expected.max())
    torch.testing.assert_close(held["importance"], expected, rtol=1e-3, atol=1e-5 * scale)
    method.advance(3)
    method.finish()
    rows = [tokenise(backbone.tokenizer, e.prompt, e.target_new) for e in (EDITS[2], *NEXT)]
    assert method.state().values["replayed"] == [[list(r.ids), r.prompt_length] for r in rows]


def test_batch_ends_when_every_target_token_is_the_first_choice(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = method_of(llama, artefacts, edit_lr=0.02, num_steps=100)
    report = edit(method, llama, EDITS)
    batch = edit_batch(llama.tokenizer, EDITS, end=False)
    with torch.no_grad():
        logits, _ = method.logits(batch.tokens)
    assert torch.equal(logits.argmax(-1), batch.labels)
    assert 0 < report.num_steps < 100
    assert edit(method, llama, EDITS).num_steps == 0
    method.remove()
    # One step before, some token was not.
    method = method_of(llama, artefacts, edit_lr=0.02, num_steps=report.num_steps - 1)
    edit(method, llama, EDITS)
    with torch.no_grad():
        logits, _ = method.logits(batch.tokens)
    assert not torch.equal(logits.argmax(-1), batch.labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_replayed": 0}, "method.num_replayed is 0; it must be at least 1"),
        ({"penalty_weight": -0.1}, "method.penalty_weight is -0.1; it must be at least 0"),
        ({"edit_lr": 0.0}, "method.edit_lr is 0.0; it must be above 0"),
    ],
)
def test_config_when_out_of_range_then_names_the_key(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
