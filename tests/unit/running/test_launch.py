"""A search and the best of it again, and how a sweep ends that something cuts off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LedgerError, StandstillError, UsageError
from orchestrator.planning import plan
from orchestrator.planning.cell import Cell, Remembered
from orchestrator.running import launch
from orchestrator.running.driver import Sweep
from orchestrator.running.interruption import Interruption
from orchestrator.settings import loading as config
from orchestrator.store.rows import Outcome
from orchestrator.store.settled import Options
from orchestrator.terminal.waiting import Waiting
from tests.unit.ended_trials import cell
from tests.unit.fake_sweep import Driver, Fate, cells, end_rows, grid

RATES = (1e-3, 2e-3, 3e-3)


@cache
def searched(*typed: str) -> plan.Plan:
    """A search over one learning rate; the best two run again."""
    return plan.expand(
        config.load(
            [
                *("ablation=lemoe_search", "backbone=facts_tiny", f"num_trials={len(RATES)}"),
                "axes={method.edit_lr:{distribution:uniform,low:1e-4,high:1e-2}}",
                *("rerun.best=2", "rerun.seeds=[0,1]", *typed),
            ]
        )
    )


def tried(made: plan.Plan, rate: float) -> Cell:
    """The trial that a suggestion of the search becomes."""
    return cell(plan.spec_for(made.config, {"method.edit_lr": rate}, 0))


def driver(store: Path, made: plan.Plan, fates: Sequence[Fate], **more: Any) -> Driver:
    """One whose search suggests the three rates."""
    keys = [tried(made, rate).key for rate in RATES]
    new = Driver(store, dict(zip(keys, fates, strict=True)), **more)
    new.tuning.suggested = [{"method.edit_lr": rate} for rate in RATES]
    return new


def ended(store: Path) -> list[tuple[str, float, int]]:
    """Part of the data, learning rate and seed of every end."""
    specs = [end["spec"] for end in end_rows(store)]
    return [(spec["dataset"]["part"], spec["method"]["edit_lr"], spec["seed"]) for spec in specs]


def test_search_when_it_is_over_then_the_best_that_finished_run_on_the_other_part(
    tmp_path: Path,
) -> None:
    made = searched()
    fates = [Fate(score=0.25), Fate(end="stopped", score=0.75), Fate(score=0.5)]
    new = driver(tmp_path, made, fates)
    launch.search(new.sweep, made)
    new.close()
    assert ended(tmp_path) == [
        *(("tune", rate, 0) for rate in RATES),
        # The one with the best score never came to its end.
        *(("report", 3e-3, 0), ("report", 1e-3, 0), ("report", 3e-3, 1), ("report", 1e-3, 1)),
    ]
    assert new.tuning.schedulers == ["fifo"]
    assert new.num_starts == 1


@pytest.mark.parametrize("published", [0.25, 1.0])
def test_tune_when_it_is_over_then_the_best_of_each_method_and_its_own_values_run_again(
    tmp_path: Path, published: float
) -> None:
    made = plan.expand(
        config.load(
            [
                *("ablation=presets", "backbone=facts_tiny", "axes.method=[ft_l,ft_m]"),
                *("num_trials=2", "rerun.seeds=[3]"),
            ]
        )
    )
    first = {"method.edit_lr": 1e-3, "method.edit_layer": 1, "method.num_steps": 10}
    draws = [first, first | {"method.edit_lr": 2e-3}]
    fates = {}
    for method, scores in (("ft_l", (0.25, 0.5)), ("ft_m", (0.75, 0.5))):
        for values, score in zip(draws, scores, strict=True):
            drawn = plan.spec_for(made.config, {"method": method, **values}, 0)
            fates[cell(drawn).key] = Fate(score=score)
    for method, score in (("ft_l", published), ("ft_m", 0.25)):
        fates[cell(plan.spec_for(made.config, {"method": method}, 0)).key] = Fate(score=score)
    new = Driver(tmp_path, fates)
    new.tuning.suggested = draws
    launch.search(new.sweep, made)
    new.close()
    specs = [end["spec"] for end in end_rows(tmp_path)]
    found = [(spec["dataset"]["part"], spec["seed"], spec["arm"]) for spec in specs]
    searched = [("tune", 0, name) for name in ("ft_l", "ft_m")]
    searched += [
        ("tune", 0, f"{name} edit_lr={rate} edit_layer=1 num_steps=10")
        for name in ("ft_l", "ft_m")
        for rate in ("0.001", "0.002")
    ]
    assert found == [
        *searched,
        # Its own values may be the best themselves, and run once then.
        *([("report", 3, "ft_l edit_lr=0.002 edit_layer=1 num_steps=10")] * (published < 0.5)),
        ("report", 3, "ft_l"),
        ("report", 3, "ft_m edit_lr=0.001 edit_layer=1 num_steps=10"),
        ("report", 3, "ft_m"),
    ]
    published = next(spec["method"] for spec in specs if spec["arm"] == "ft_m")
    assert published["edit_lr"] == 5e-4  # not the preset of facts_tiny


def test_search_when_it_goes_on_then_nothing_runs_and_optuna_is_told_what_there_is(
    tmp_path: Path,
) -> None:
    made = searched()
    fates = [Fate(score=0.25), Fate(end="stopped", score=0.75), Fate(end="failed")]
    for is_first in (True, False):
        new = driver(tmp_path, made, fates)
        launch.search(new.sweep, made)
        new.close()
        assert bool(new.tuning.started) == is_first
    told = new.tuning.answers
    assert all(isinstance(each, Remembered) for each in told)
    assert [(each.value, each.stopped_at) for each in told] == [
        (0.25, None),
        (0.75, 1),
        (None, None),
    ]
    assert [[rung["progress"] for rung in each.rungs] for each in told] == [[0.25]] * 3


def test_search_when_it_suggests_a_trial_twice_then_that_has_run_once(tmp_path: Path) -> None:
    made = searched()
    new = driver(tmp_path, made, [Fate(score=0.25)] * 3)
    new.tuning.suggested = [{"method.edit_lr": RATES[0]}] * 2
    new.sweep.suggest(made.config, made.searches[0], 0)
    new.close()
    assert len(new.tuning.started) == 1
    assert new.tuning.answers[1] == Remembered(0.25)


def test_search_when_a_trial_is_lost_then_it_has_failed_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    made = searched()
    new = driver(tmp_path, made, [Fate(setbacks=("lost",)), Fate(setbacks=("silent",)), Fate()])
    new.sweep.suggest(made.config, made.searches[0], 0)
    new.close()
    assert [end["status"] for end in end_rows(tmp_path)] == ["failed", "failed", "finished"]
    assert len(new.tuning.started) == 3


def test_rerun_when_it_is_on_the_part_of_the_search_then_no_trial_ends_twice(
    tmp_path: Path,
) -> None:
    made = searched("rerun.part=tune")
    new = driver(tmp_path, made, [Fate()] * 3)
    launch.search(new.sweep, made)
    new.close()
    assert Counter(ended(tmp_path)) == {
        **{("tune", rate, 0): 1 for rate in RATES},
        **{("tune", rate, 1): 1 for rate in RATES[:2]},
    }
    assert len(new.tuning.started) == 5  # nor does one run for nothing


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, Outcome(counts={"finished": 2})),
        (KeyboardInterrupt(), Outcome(was_interrupted=True)),
        (StandstillError("nothing has moved"), Outcome(standstill="nothing has moved")),
    ],
)
def test_run_when_something_ends_it_then_the_outcome_says_so_and_all_is_closed(
    tmp_path: Path, error: BaseException | None, expected: Outcome
) -> None:
    new = Driver(tmp_path, between=raising(error))
    outcome = run(new)
    assert new.witness.is_closed
    assert new.tuning.is_closed
    expected.experiment_id = new.witness.experiment_id
    assert outcome == expected


def test_run_when_the_ledger_fails_then_that_is_raised_and_all_is_closed(tmp_path: Path) -> None:
    new = Driver(tmp_path, between=raising(LedgerError("cannot append")))
    with pytest.raises(LedgerError, match="cannot append"):
        run(new)
    assert new.witness.is_closed
    assert new.tuning.is_closed


def test_run_when_it_is_interrupted_before_the_store_is_open_then_nothing_is_left(
    tmp_path: Path,
) -> None:
    def prepare(*what: object) -> tuple[Sweep, Sequence[Cell]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Waiting("") as waiting:
        launch.run(grid(), Options(), waiting, prepare)
    assert not list(tmp_path.iterdir())


def raising(error: BaseException | None) -> Any:
    def between() -> None:
        if error is not None:
            raise error

    return between


def run(new: Driver) -> Outcome:
    """As the command runs a grid, on two trials."""

    def prepare(*what: object) -> tuple[Sweep, Sequence[Cell]]:
        return new.sweep, cells()[:2]

    with Waiting("") as waiting:
        return launch.run(grid(), Options(), waiting, prepare)


def test_run_when_a_backbone_has_no_revision_then_it_is_refused_and_planned_all_the_same() -> None:
    made = plan.expand(config.load(["ablation=smoke", "backbone=bloomz_1b1"]))
    (line,) = made.unpinned
    assert line.startswith("backbone=bloomz_1b1: bigscience/bloomz-1b1 needs revision: add back")
    with pytest.raises(UsageError, match=r"backbone=bloomz_1b1: .* needs revision"):
        launch.prepared(made, Options(), Interruption(), Waiting("checking"))
    assert plan.expand(config.load(["ablation=smoke", "backbone=bloomz_560m"])).unpinned == ()
    assert plan.expand(config.load(["ablation=smoke", "backbone=facts"])).unpinned == ()
