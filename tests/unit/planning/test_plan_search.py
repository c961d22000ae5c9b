"""What a search plan holds: a space, and the trial that a point of it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan, expand, spec_for
from orchestrator.settings import loading as config
from tests.unit.small_spaces import write_small_spaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")


def plan(folder: Path, *typed: str) -> Plan:
    return expand(config.load(typed, folder))


def test_search_when_expanded_then_the_space_is_in_the_backbones_units(folder: Path) -> None:
    made = plan(folder, "ablation=search")
    assert made.trials == ()
    assert made.num_trials == 5 + 3 * 2
    (search,) = made.searches
    assert search.distributions["method.lora_rank"].choices == (1, 64)  # 16 and 32 both fall on 1
    layers = search.distributions["method.edit_layer"]
    assert (layers.kind, layers.low, layers.high) == ("int", 0, 15)
    rate = search.distributions["method.edit_lr"]
    assert (rate.kind, rate.low, rate.high) == ("loguniform", 1e-4, 1e-2)
    middle = made.typical[0].method
    # sqrt(1e-4 * 1e-2) = 1e-3; (0 + 15) / 2 = 7.5 -> 8
    assert (middle["edit_lr"], middle["edit_layer"]) == (pytest.approx(1e-3), 8)


def test_spec_for_when_values_are_drawn_then_they_hold_as_they_are(folder: Path) -> None:
    loaded = config.load(["ablation=search"], folder)
    values = {"method.lora_rank": 64, "method.edit_lr": 0.00123456, "method.edit_layer": 15}
    spec = spec_for(loaded, values, 4, "report")
    assert spec.arm == "lora_rank=64 edit_lr=0.00123456 edit_layer=15"
    assert (spec.seed, spec.dataset["part"]) == (4, "report")
    assert spec.swept == values
    assert spec_for(loaded, values, 4).dataset["part"] == "tune"
    with pytest.raises(UsageError, match="0 to 15"):
        spec_for(loaded, {"method.edit_layer": 16}, 0)


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("axes.method.edit_lr={distribution:normal}", "did you mean"),
        ("axes.method.edit_lr={distribution:uniform,low:1}", "takes high, low"),
        ("axes.method.edit_lr={distribution:loguniform,low:0,high:1}", "low > 0"),
        ("axes.method.edit_layer={distribution:int,low:0,high:16}", "0 to 15"),
        ("num_trials=null", "num_trials is missing"),
        ("scheduler.protect=[full]", "scheduler.protect: a search has no arms"),
    ],
)
def test_search_when_the_space_is_wrong_then_it_says_so(
    folder: Path, typed: str, part: str
) -> None:
    with pytest.raises(UsageError, match=part):
        plan(folder, "ablation=search", typed)


def test_knowable_of_a_search_holds_the_data_that_it_runs_again_on() -> None:
    search = expand(config.load(["ablation=lemoe_search"]))
    assert {spec.dataset["part"] for spec in search.knowable} == {"tune", "report"}


@pytest.mark.parametrize(
    ("typed", "part"), [("dataset.part=report", "report"), ("rerun.part=tune", "tune")]
)
def test_search_when_its_best_are_judged_by_what_chose_them_then_a_line_says_so(
    folder: Path, typed: str, part: str
) -> None:
    said = f"rerun.part={part}: the search chooses by dataset.part={part}"
    assert any(note.startswith(said) for note in plan(folder, "ablation=search", typed).notes)
    assert not any("rerun.part" in note for note in plan(folder, "ablation=search").notes)
