"""Which trials of a plan may be trained together."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning import plan
from orchestrator.planning.packs import automatic_size, leaders_first, packs
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings import loading as config


def planned(*typed: str) -> plan.Plan:
    return plan.expand(config.load(list(typed)))


def by_arm(found: plan.Plan) -> dict[str, TrialSpec]:
    return {f"{spec.arm} / {spec.seed}": spec for spec in found.trials}


def test_packs_hold_trials_that_differ_in_what_is_trained_alone() -> None:
    trials = by_arm(planned("ablation=lemoe_lora"))
    made = packs(trials, 4)
    assert sorted(key for pack in made for key in pack) == sorted(trials)
    for pack in made:
        each = [trials[key] for key in pack]
        assert 2 <= len(each) <= 4
        assert len({spec.method["edit_layer"] for spec in each}) == 1
        assert len({repr(spec.protocol) for spec in each}) == 1
    differs = {spec.seed for pack in made for spec in [trials[key] for key in pack]}
    assert differs == {0, 1}


def test_packs_when_backbone_data_or_protocol_differ_then_none_crosses_them() -> None:
    typed = ("ablation=smoke", "method=ft_m", "axes.method.edit_lr=[1e-4,2e-4]", "seeds=[0]")
    one, other = (by_arm(planned(*typed, f"protocol.num_edits={count}")) for count in (4, 5))
    both = {f"{name}, {count}": one[name] for count in (4, 5) for name in one}
    both |= {f"{name}, 5": other[name] for name in other}
    assert {frozenset(pack) for pack in packs(both, 4)} == {
        frozenset(f"{name}, {count}" for name in one) for count in (4, 5)
    }


def test_neighbours_are_of_different_packs_and_leaders_come_first() -> None:
    typed = ("ablation=smoke", "method=ft_m", "seeds=[0]")
    (spec,) = planned(*typed).trials
    trials = dict.fromkeys("abcdefg", spec)
    made = packs(trials, 3)
    assert made == (("a", "d", "g"), ("b", "e"), ("c", "f"))
    assert leaders_first(trials, made) == ["a", "b", "c", "d", "e", "f", "g"]
    assert leaders_first(dict.fromkeys("gfedcba", spec), made) == [*"cba", *"gfed"]
    tiny = dataclasses.replace(spec, backbone=spec.backbone | {"name": "facts_tiny"})
    mixed = {key: tiny if key in "bd" else spec for key in trials}
    assert leaders_first(mixed, [("a", "e"), ("b", "d")]) == [*"acfg", *"e", *"b", *"d"]
    assert packs({"a": spec}, 3) == ()
    assert packs(trials, 1) == ()


@pytest.mark.parametrize(
    "typed",
    [("method=memit",), ("method=ft_l",), ("method=ft_m", "protocol.kind=single")],
)
def test_trials_whose_steps_are_their_own_are_in_no_pack(typed: tuple[str, ...]) -> None:
    (spec,) = planned("ablation=smoke", "seeds=[0]", *typed).trials
    assert packs({"a": spec, "b": spec}, 2) == ()


def test_automatic_size_leaves_every_worker_several_packs() -> None:
    assert automatic_size(896, 2, on_gpu=False) == 4
    assert automatic_size(896, 2, on_gpu=True) == 16
    assert automatic_size(24, 2, on_gpu=False) == 3
    assert automatic_size(10, 2, on_gpu=False) == 1
    assert automatic_size(896, 1024, on_gpu=True) == 1


LEMOE = ("ablation=lemoe_lora", "pack=4")


@pytest.mark.parametrize(
    ("typed", "note"),
    [
        (LEMOE, "pack=4: 54 trials in 15 packs"),
        (
            ("ablation=smoke", "axes.method=[ft_m,memit]", "seeds=[0,1]", "pack=3"),
            "pack=3: 2 trials in 1 pack, 2 by themselves",
        ),
        (("ablation=smoke", "method=memit"), ""),
        (("ablation=smoke", "method=memit", "pack=auto"), ""),
        (
            ("ablation=smoke", "method=memit", "pack=3"),
            "pack=3: nothing is packed: the steps of memit are not taken with those of other "
            "trials",
        ),
        (
            ("ablation=smoke", "method=ft_m", "seeds=[0]", "pack=3"),
            "pack=3: nothing is packed: no two trials have backbone, data, protocol and edited "
            "layer in common",
        ),
        (
            (*LEMOE, "max_trial_seconds=60"),
            "pack=4: nothing is packed: with max_trial_seconds each trial is timed by itself",
        ),
        (
            (*LEMOE, "parallel=data"),
            "pack=4: nothing is packed: with parallel=data several GPUs or processes share one "
            "trial",
        ),
        (
            ("ablation=lemoe_search", "pack=2"),
            "pack=2: nothing is packed: a search learns of one trial what the next one is",
        ),
    ],
)
def test_what_a_typed_number_packs_is_said_or_why_it_packs_nothing(
    typed: tuple[str, ...], note: str
) -> None:
    said = [each for each in planned(*typed).notes if "pack" in each]
    assert said == ([note] if note else [])


@pytest.mark.parametrize("value", ["0", "-1", "1001", "x", "1.5", "true", "null", "[2]"])
def test_pack_when_it_is_no_number_of_trials_then_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"^pack=.*: must be auto or a number from 1 to 1000$"):
        config.load(["ablation=smoke", f"pack={value}"])


def test_pack_is_no_part_of_a_trial() -> None:
    plain, packed = planned("ablation=lemoe_lora"), planned(*LEMOE)
    assert packed.trials == plain.trials
