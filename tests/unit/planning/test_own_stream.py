"""What a method's file says of the stream that it edits: MEMIT-MASS takes it in one batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.identity import identity_fields
from orchestrator.planning.plan import Plan, expand
from orchestrator.settings import loading as config
from trainables.bases import read_method
from trainables.methods import method_settings

SPACES = Path(__file__).parents[3] / "search_spaces"
STREAM = ("protocol.kind=lifelong", "protocol.num_edits=40")


def plan(*typed: str) -> Plan:
    return expand(config.load(typed, SPACES))


def test_a_stream_when_memit_mass_edits_it_then_is_one_batch_and_memits_own_is_as_asked() -> None:
    made = plan("ablation=smoke", "axes.method=[memit,memit_mass]", *STREAM, "seeds=[0]")
    memit, mass = made.trials
    assert (memit.protocol["num_batches"], memit.protocol["edit_batch_size"]) == (40, 1)
    assert (mass.protocol["num_batches"], mass.protocol["edit_batch_size"]) == (1, 40)
    assert mass.origins["protocol.num_batches"].source == "the method's own"
    assert {**mass.method, "name": "memit"} == memit.method


def test_presets_of_memit_hold_for_memit_mass_from_a_file_too(tmp_path: Path) -> None:
    presets = tmp_path / "presets.yaml"
    presets.write_text("memit: {v_lr: 0.7}\nmemit_mass: {clamp: 3.0}\n")
    asked = ("ablation=smoke", f"presets={presets}", *STREAM, "seeds=[0]")
    memit, mass = plan(*asked, "axes.method=[memit,memit_mass]").trials
    assert (memit.method["v_lr"], memit.method["clamp"]) == (0.7, 4.0)
    assert (mass.method["v_lr"], mass.method["clamp"]) == (0.7, 3.0)
    presets.write_text("memit: {v_lr: 0.7}\n")
    (alone,) = plan(*asked, "axes.method=[memit_mass]").trials
    assert alone.method["v_lr"] == 0.7


def test_memit_in_one_batch_by_hand_is_the_same_trial() -> None:
    of_name = plan("ablation=smoke", "axes.method=[memit_mass]", *STREAM, "seeds=[0]")
    by_hand = plan(
        "ablation=smoke", "axes.method=[memit]", *STREAM, "protocol.num_batches=1", "seeds=[0]"
    )
    assert identity_fields(of_name.trials[0], {}) == identity_fields(by_hand.trials[0], {})


def test_the_batches_are_no_setting_of_the_editor() -> None:
    assert method_settings(read_method("memit_mass")) == method_settings(read_method("memit"))


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ((*STREAM, "protocol.num_batches=5"), "protocol.num_batches=5: method memit_mass"),
        ((*STREAM, "protocol.edit_batch_size=2"), "protocol.edit_batch_size=2: method memit_mass"),
        (
            ("protocol={kind: serial, num_questions: 5, answers_per_question: 2}",),
            "protocol.kind=serial: method memit_mass",
        ),
    ],
)
def test_other_batches_than_the_methods_own_are_one_error(
    typed: tuple[str, ...], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        plan("ablation=smoke", "axes.method=[memit_mass]", *typed)


def test_one_batch_typed_for_a_method_that_takes_one_is_no_error() -> None:
    made = plan(
        "ablation=smoke", "axes.method=[memit_mass]", *STREAM, "protocol.edit_batch_size=40"
    )
    assert {trial.protocol["num_batches"] for trial in made.trials} == {1}
