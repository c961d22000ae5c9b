"""`method.reading`: the printed values of a method's file, under whatever is typed or swept."""

from __future__ import annotations

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.papers.presets import fields_of
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings.loading import load
from orchestrator.settings.yaml_files import SearchSpaces

PAPERS_METHODS = ("lemoe", "memoe_v1", "memoe_v2", "arm")


def trial(*typed: str) -> TrialSpec:
    return expand(load(["ablation=smoke", "seeds=[0]", *typed])).trials[0]


@pytest.mark.parametrize("name", PAPERS_METHODS)
def test_printed_reading_then_the_values_of_the_file_and_no_others(name: str) -> None:
    loaded = SearchSpaces().load("method", name)
    working, printed = trial(f"method={name}"), trial(f"method={name}", "method.reading=printed")
    differing = {
        key: value
        for key, value in printed.method.items()
        if value != working.method[key] and key != "reading"
    }
    assert differing == loaded["printed"]
    assert set(loaded["printed"]) <= set(fields_of(loaded))
    (key, *_) = loaded["printed"]
    assert printed.origins[f"method.{key}"].source == f"printed of method {name}"


def test_reading_when_a_key_is_typed_too_then_the_typed_value_holds() -> None:
    spec = trial("method=lemoe", "method.reading=printed", "method.anchor=frozen")
    assert (spec.method["anchor"], spec.method["renormalises_gates"]) == ("frozen", False)


def test_reading_then_the_values_decide_the_trial_and_not_the_word() -> None:
    printed = trial("method=lemoe", "method.reading=printed")
    by_hand = trial("method=lemoe", "method.anchor=learned", "method.renormalises_gates=false")
    assert fingerprint(printed, {}) == fingerprint(by_hand, {})
    assert fingerprint(printed, {}) != fingerprint(trial("method=lemoe"), {})


def test_reading_when_it_is_an_axis_then_arms_bear_its_name() -> None:
    words = ["ablation=smoke", "axes.method=[lemoe,memoe_v2]", "seeds=[0]"]
    made = expand(load([*words, "axes.method.reading=[working,printed]"]))
    assert {spec.arm for spec in made.trials} == {
        f"{name} reading={reading}"
        for name in ("lemoe", "memoe_v2")
        for reading in ("working", "printed")
    }


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("method=lemoe", "method.reading=literal"), "method.reading=literal: allowed: working, p"),
        (("method=ft_m", "method.reading=printed"), "method.reading"),
    ],
)
def test_reading_when_there_is_none_such_then_one_line(typed: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        trial(*typed)


@pytest.mark.parametrize("name", PAPERS_METHODS)
def test_as_printed_changes_each_printed_value_alone_and_all_together(name: str) -> None:
    arms = {spec.arm: spec for spec in expand(load(["ablation=as_printed", "seeds=[0]"])).trials}
    loaded, working = SearchSpaces().load("method", name), arms[name].method
    changed = {
        arm: {key for key in working if spec.method[key] != working[key]} - {"reading"}
        for arm, spec in arms.items()
        if spec.method["name"] == name and arm != name
    }
    assert changed.pop(f"{name}_printed") == set(loaded["printed"])
    alone = set().union(*(keys for keys in changed.values() if len(keys) == 1))
    # Question words stand in no equation, a negative GECE has no logarithm, and learned keys have
    # no gates but the printed ones.
    assert set(loaded["printed"]) - alone <= {"anchor_words", "gece_denominator", "anchor"}
