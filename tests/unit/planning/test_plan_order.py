"""In which order a plan's trials stand: paired by seed, shuffled, what shares much together."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.plan import Plan, expand
from orchestrator.settings import loading as config
from tests.unit.small_spaces import write_small_spaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")


def plan(folder: Path, *typed: str) -> Plan:
    return expand(config.load(typed, folder))


def test_expand_when_seeds_differ_then_arms_are_paired_and_shuffled_anew(folder: Path) -> None:
    made = plan(folder, "ablation=ranks", "seeds=[3,4]")
    first, second = made.trials[:9], made.trials[9:]
    assert [trial.seed for trial in made.trials] == [3] * 9 + [4] * 9  # seeds of a cell far apart
    orders = [[trial.arm for trial in half] for half in (first, second)]
    assert Counter(orders[0]) == Counter(orders[1]) == Counter(made.arms)
    assert orders[0] != orders[1]
    assert orders[0] != list(made.arms)
    again = plan(folder, "ablation=ranks", "seeds=[3,4]")
    assert [trial.arm for trial in again.trials] == [trial.arm for trial in made.trials]


AXES = "axes={method.edit_layer: [3, 9, 15], method.lora_rank: [1, 16], backbone: [tiny, small]}"


def with_another_backbone(folder: Path) -> None:
    """`small`, which is `tiny` by another name."""
    tiny = (folder / "backbone/tiny.yaml").read_text()
    (folder / "backbone/small.yaml").write_text(tiny.replace("tiny", "small"))


def runs(values: list[Any]) -> list[Any]:
    """Each value once for every unbroken run of it."""
    return [value for number, value in enumerate(values) if values[number - 1 : number] != [value]]


def test_expand_when_no_scheduler_compares_then_backbones_and_layers_stay_together(
    folder: Path,
) -> None:
    with_another_backbone(folder)
    made = plan(folder, "ablation=ranks", AXES, "where=[]", "seeds=[0,1]")
    half = len(made.trials) // 2
    for trials in (made.trials[:half], made.trials[half:]):
        assert len(trials) == 12
        backbones = [str(trial.backbone["name"]) for trial in trials]
        layers = [(trial.backbone["name"], trial.method["edit_layer"]) for trial in trials]
        assert len(runs(backbones)) == 2
        assert len(runs(layers)) == 6
    first, second = (
        [trial.arm for trial in part] for part in (made.trials[:half], made.trials[half:])
    )
    assert first != second


def test_expand_when_a_scheduler_compares_then_a_backbones_arms_stay_as_shuffled(
    folder: Path,
) -> None:
    with_another_backbone(folder)
    typed = ("ablation=ranks", AXES, "where=[]", "seeds=[5]")
    made = plan(folder, *typed, "scheduler=asha")
    assert len(runs([trial.backbone["name"] for trial in made.trials])) == 2
    shuffled = list(made.arms)
    random.Random(5).shuffle(shuffled)
    for name in ("tiny", "small"):
        arms = [trial.arm for trial in made.trials if trial.backbone["name"] == name]
        assert arms == [arm for arm in shuffled if name in arm.split()[-1]]
