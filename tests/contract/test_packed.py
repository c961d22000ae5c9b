"""Trials whose steps are taken together end as each does by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.test_every_method import EDITS, METHODS, MORE_EDITS, answers, make, with_chunker
from trainables.artefacts import Artefacts
from trainables.backbones.forward.passage import JointPass
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.bases import read_method
from trainables.errors import EditDiverged
from trainables.interfaces import Backbone, Edit, EditMethod, EditReport
from trainables.methods import get_method
from trainables.moe.entities import Chunker
from trainables.optimise import Optimisation
from trainables.prompts import edit_batch
from trainables.states import read_state, write_state
from trainables.trials.packs.lockstep import Lockstep, apart_for, optimisation_of

PACKABLE = [name for name in METHODS if (read_method(name).get("cost") or {}).get("packable")]
LAYER = 2  # that all of them edit


@dataclass(frozen=True)
class Arm:
    """A trial of a pack: what it differs in, and what it edits."""

    settings: dict[str, Any]
    seed: int = 0
    edits: Sequence[Edit] = EDITS


ARMS = (
    Arm({"stop_loss": 0.0}),
    Arm(
        {"num_experts": 3, "top_k": 2, "lora_rank": 2, "edit_lr": 8e-3, "router_temperature": 0.5},
        seed=1,
    ),
    Arm({"stop_loss": 1e9}, seed=2),  # learned before its first step, where a loss stops it
    Arm({"num_experts": 1, "top_k": 1, "num_steps": 7}, seed=3, edits=MORE_EDITS),  # fewer steps
)


@pytest.fixture
def artefacts(tmp_path: Path, chunker: Chunker) -> Artefacts:
    return with_chunker(tmp_path / "artefacts", chunker)


def apart(name: str, backbone: Backbone) -> Backbone:
    _, method_class = get_method(read_method(name).get("module", name))
    return apart_for(method_class, backbone, LAYER)


@dataclass
class Trained:
    """A method on modules of its own, with a batch begun."""

    method: EditMethod
    backbone: Backbone

    @property
    def optimisation(self) -> Optimisation:
        found = optimisation_of(self.method)
        assert found is not None
        return found

    def end(self) -> tuple[EditReport, torch.Tensor]:
        report = self.method.finish()
        logits = answers(self.method, self.backbone)
        self.method.remove()
        return report, logits


def begun(name: str, arm: Arm, backbone: Backbone, artefacts: Artefacts) -> Trained:
    seen = apart(name, backbone)
    method = make(name, seen, artefacts, arm.seed, **arm.settings)
    method.begin(edit_batch(seen.tokenizer, arm.edits, end=True))
    return Trained(method, seen)


def alone(name: str, backbone: Backbone, artefacts: Artefacts) -> list[Any]:
    found = []
    for arm in ARMS:
        one = begun(name, arm, backbone, artefacts)
        while not one.method.advance(3):
            pass
        found.append(one.end())
    return found


def together(trained: Sequence[Trained]) -> Lockstep:
    lockstep = Lockstep([one.optimisation for one in trained], JointPass())
    while any(
        not one.optimisation.is_done and number not in lockstep.failed
        for number, one in enumerate(trained)
    ):
        lockstep.step()
    return lockstep


def check_alike(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for (report, logits), (own, own_logits) in zip(found, expected, strict=True):
        assert (report.num_steps, report.counts) == (own.num_steps, own.counts)
        assert report.final_loss == pytest.approx(own.final_loss, abs=1e-4)
        torch.testing.assert_close(logits, own_logits, atol=1e-4, rtol=0)
        assert torch.equal(logits.argmax(-1), own_logits.argmax(-1))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_s_file_says_of_packing_is_true(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = make(name, llama, artefacts)
    method.begin(edit_batch(llama.tokenizer, EDITS, end=True))
    optimisation = optimisation_of(method)
    has_passage = optimisation is not None and optimisation.loss.begin().passage is not None  # type: ignore[attr-defined]
    assert has_passage == (name in PACKABLE)
    method.remove()


@pytest.mark.parametrize("name", PACKABLE)
def test_packed_trials_end_as_by_themselves(
    name: str, backbone: Backbone, artefacts: Artefacts
) -> None:
    if backbone.family.name != "gemma2":  # of which transformers makes NaN at some rows in float64
        backbone.model.double()  # Adam divides by the gradient's size: rounding would grow
    pristine = Pristine(backbone.model, full_every=1)
    expected = alone(name, backbone, artefacts)
    trained = [begun(name, arm, backbone, artefacts) for arm in ARMS]
    assert not together(trained).failed
    check_alike([one.end() for one in trained], expected)
    pristine.check()


@pytest.mark.parametrize("name", PACKABLE)
def test_a_trial_that_diverges_or_fails_leaves_the_others_as_they_are(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    llama.model.double()
    expected = alone(name, llama, artefacts)
    trained = [begun(name, arm, llama, artefacts) for arm in ARMS]
    wild, broken = (begun(name, ARMS[0], llama, artefacts) for _ in range(2))
    with torch.no_grad():
        for parameter in wild.optimisation._parameters.values():
            parameter.fill_(float("inf"))

    def halves() -> Any:
        raise ZeroDivisionError

    broken.optimisation.loss._halves = halves  # type: ignore[attr-defined]
    lockstep = together([wild, broken, *trained])
    assert lockstep.failed.keys() == {0, 1}
    assert isinstance(lockstep.failed[0], EditDiverged)
    assert isinstance(lockstep.failed[1], ZeroDivisionError)
    check_alike([one.end() for one in trained], expected)


@pytest.mark.parametrize("name", PACKABLE)
def test_packed_trials_go_on_from_their_states_elsewhere(
    name: str, checkpoints: dict[str, Path], artefacts: Artefacts, tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoints["llama"])
    backbone.model.double()
    expected = alone(name, backbone, artefacts)
    trained = [begun(name, arm, backbone, artefacts) for arm in ARMS]
    lockstep = Lockstep([one.optimisation for one in trained], JointPass())
    for _ in range(3):
        lockstep.step()
    for number, one in enumerate(trained):
        write_state(tmp_path / str(number), one.method.state())

    backbone = load_backbone(checkpoints["llama"])
    backbone.model.double()
    again = []
    for number, arm in enumerate(ARMS):
        seen = apart(name, backbone)
        method = make(name, seen, artefacts, seed=99, **arm.settings)
        state = read_state(tmp_path / str(number))
        assert state is not None
        method.load(state)
        again.append(Trained(method, seen))
    together(again)
    check_alike([one.end() for one in again], expected)
