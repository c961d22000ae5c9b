"""Every key that can be typed can be explained."""

from __future__ import annotations

import io
from dataclasses import fields
from functools import cache

import pytest
from rich.console import Console

from orchestrator.errors import UsageError
from orchestrator.planning.plan import expand
from orchestrator.settings import loading as config
from orchestrator.settings.models import Evaluate, Protocol, Scheduler, SweepConfig
from orchestrator.settings.yaml_files import SearchSpaces
from orchestrator.terminal.explaining import Explanation, explained, explanations
from trainables.methods import get_method

SPACES = SearchSpaces()
# Not typed as they stand: groups, and what files alone say.
NOT_TYPED = {"ablation", "scale", "question", "own_units", "dropped"}
NOT_TYPED |= {"protocol", "evaluate", "scheduler"}  # their keys are


@cache
def known() -> dict[str, list[Explanation]]:
    return explanations(SPACES)


def shown(key: str, *typed: str) -> str:
    out = io.StringIO()
    plan = expand(config.load(typed)) if typed else None
    Console(file=out, width=200, highlight=False).print(explained(key, SPACES, plan))
    return out.getvalue()


@pytest.mark.parametrize("name", SPACES.names("method"))
def test_every_setting_of_a_method_is_explained_with_its_default(name: str) -> None:
    values = SPACES.load("method", name)
    settings = [field.name for field in fields(get_method(values.get("module", name))[0])]
    for setting in settings:
        of = [each for each in known()[f"method.{setting}"] if name in each.of.split(", ")]
        assert len(of) == 1, setting
        assert len(of[0].said["meaning"]) > 1
        assert str(values[setting]) in of[0].said["default"]


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("", set(config.known_words()) & set(SweepConfig.model_fields) - NOT_TYPED),
        ("protocol.", set(Protocol.model_fields)),
        ("evaluate.", set(Evaluate.model_fields)),
        ("scheduler.", set(Scheduler.model_fields)),
    ],
)
def test_every_key_that_is_typed_is_explained(part: str, names: set[str]) -> None:
    assert names
    assert sorted(f"{part}{name}" for name in names if f"{part}{name}" not in known()) == []


def test_explain_when_an_ablation_is_named_then_its_values_and_where_they_come_from() -> None:
    text = shown("protocol.kind", "ablation=everyone")
    assert "rolled back" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["batch", "arm", "batch", "28", "arms"] in lines
    text = shown("method.num_experts", "ablation=lemoe_lora", "method.num_experts=10")
    lines = [line.split() for line in text.splitlines()]
    assert ["10", "axis", "method.num_experts", "21", "arms"] in lines
    text = shown("seeds", "ablation=lemoe_lora", "seeds=[7]")
    assert text.splitlines()[-1].strip() == "in ablation=lemoe_lora: [7]"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("order", "'protocol.order'"),
        ("method.lora_rnk", "'method.lora_rank'"),
        ("lora_rank", "'method.lora_rank'"),
        ("nothing_like_it", "search_spaces/README.md"),
    ],
)
def test_explain_when_there_is_no_such_key_then_the_error_names_those_near(
    key: str, near: str
) -> None:
    with pytest.raises(UsageError, match=f"--explain {key}: no such key") as caught:
        explained(key, SPACES)
    assert near in str(caught.value)


def test_explain_when_no_trial_has_the_key_then_it_says_so() -> None:
    assert "no trial of ablation=grace_radius has it" in shown(
        "method.lora_rank", "ablation=grace_radius"
    )
