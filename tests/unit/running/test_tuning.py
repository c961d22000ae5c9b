"""What a Tuner is told, and what is done behind it; Ray's own is run in tests/end_to_end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.errors import LedgerError
from orchestrator.forecast.placement import Placement, Supply
from orchestrator.planning.cell import Cell
from orchestrator.planning.distributions import Distribution
from orchestrator.planning.searches import Search
from orchestrator.running.interruption import Interruption
from orchestrator.running.nodes import Nodes
from orchestrator.running.tuning import Tuning
from orchestrator.settings import loading as config
from tests.unit.fake_sweep import cells, grid
from tests.unit.running.test_events import Heard, report
from trainables.trials.run import Runtime

LOST = "Ray lost it without a word"


class FakeMachines:
    """Four CPUs of one machine."""

    def __init__(self) -> None:
        self.nodes = Nodes(None)
        self.supply = Supply({"CPU": 4.0})
        self.is_closed = False

    def need(self, cells: Sequence[Cell]) -> Placement:
        return Placement("none", 1.0, 0.0)

    def close(self) -> None:
        self.is_closed = True


class FakeTuner:
    """Takes what Ray's own does; `fit` does what the test says."""

    def __init__(self, fit: Callable[[FakeTuner], None]) -> None:
        self._fit = fit
        self.told: dict[str, Any] = {}

    def __call__(self, trainable: Any, **told: Any) -> FakeTuner:
        self.told = told
        return self

    def fit(self) -> None:
        scratch = Path(self.told["run_config"].storage_path)
        scratch.mkdir(parents=True)  # as Tune does
        self._fit(self)

    @property
    def events(self) -> Any:
        return self.told["run_config"].callbacks[0]

    def finish(self, *chosen: Cell) -> None:
        for each in chosen:
            report(self.events, each.key, status="finished")


def nothing(tuner: FakeTuner) -> None:
    """Tune comes back without a word on any trial."""


def made(
    store: Path,
    fit: Callable[[FakeTuner], None] = nothing,
    interruption: Interruption | None = None,
    typed: tuple[str, ...] = (),
) -> tuple[Tuning, FakeTuner, Heard, FakeMachines]:
    heard, tuner, machines = Heard(), FakeTuner(fit), FakeMachines()
    sweep = config.load(["ablation=smoke", *typed]) if typed else grid().config
    new = Tuning(
        sweep,
        store / "cache",
        store,
        store / "ray" / "driver",
        machines,
        interruption or Interruption(),
        heard,
        tuner,
    )
    return new, tuner, heard, machines


def test_grid_when_tune_tells_of_some_trials_then_the_others_are_lost(tmp_path: Path) -> None:
    one, two, three = cells()[:3]
    new, tuner, heard, _ = made(tmp_path, lambda tuner: tuner.finish(two))
    new.run([one, two, three], "fifo", [])
    assert [told[:2] for told in heard.told] == [
        *(("on_result", two.key), ("on_lost", one.key), ("on_lost", three.key)),
    ]
    assert tuner.told["param_space"]["trial_key"]["grid_search"] == [one.key, two.key, three.key]
    assert tuner.told["tune_config"].max_concurrent_trials == 4
    assert not list((tmp_path / "ray" / "driver").iterdir())  # nothing of Tune's is left


def test_workers_when_typed_then_so_many_trials_run_at_a_time(tmp_path: Path) -> None:
    new, tuner, _, _ = made(tmp_path, typed=("workers=3",))
    new.run(cells()[:2], "fifo", [])
    assert tuner.told["tune_config"].max_concurrent_trials == 3


@pytest.mark.parametrize("scheduler", ["fifo", "asha"])
def test_pack_when_typed_then_trials_are_told_with_whom_they_may_be_trained(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Runtime] = []

    def with_parameters(trainable: Any, *, plan: Any, runtime: Runtime) -> Any:
        told.append(runtime)
        return trainable

    monkeypatch.setattr("orchestrator.running.tuning.tune.with_parameters", with_parameters)
    monkeypatch.setattr("orchestrator.running.tuning.tune.with_resources", lambda it, *_: it)
    keys = [each.key for each in cells()[:5]]
    for typed in (("pack=3",), (), ("pack=auto",), ("pack=3", "max_trial_seconds=9")):
        new, tuner, _, _ = made(tmp_path, typed=("workers=1", *typed))
        new.run(cells()[:5], scheduler, [])
        assert tuner.told["param_space"]["trial_key"]["grid_search"] == keys
    packed, *others = told
    assert packed.packs is not None
    assert not packed.packs.measures
    one, other = (keys[0], keys[2], keys[4]), (keys[1], keys[3])
    assert packed.packs.of == {**dict.fromkeys(one, one), **dict.fromkeys(other, other)}
    assert [each.packs for each in others] == [None] * 3  # auto: a worker would have one pack


@pytest.mark.parametrize(
    ("typed", "is_stopped"), [((), True), (("scheduler.protect=[ft_m]",), False)]
)
def test_asha_when_a_trial_is_worse_than_an_earlier_one_then_it_stops_unless_protected(
    tmp_path: Path, typed: tuple[str, ...], is_stopped: bool
) -> None:
    decisions = []

    def fit(tuner: FakeTuner) -> None:
        asha = tuner.told["tune_config"].scheduler
        trial = SimpleNamespace(trial_id="t", config={"trial_key": only.key}, status="RUNNING")
        asha.on_trial_add(None, trial)
        result = {"rung": 1, "compared": 0.2, "done": False}
        decisions.append(asha.on_trial_result(None, trial, result))
        tuner.events.on_trial_complete(1, [], trial)

    (only,) = cells()[:1]
    new, _, heard, _ = made(tmp_path, fit, typed=typed)
    new.run([only], "asha", [{"trial_key": "old", "progress": 0.3, "compared": 0.8}])
    assert decisions == ["STOP" if is_stopped else "CONTINUE"]
    stopped, lost = ("on_stopped", only.key, "asha"), ("on_lost", only.key, LOST)
    assert heard.told == [stopped if is_stopped else lost]


@pytest.mark.parametrize("error", [LedgerError("cannot append"), KeyboardInterrupt()])
def test_tuner_that_is_cut_off_then_no_trial_is_called_lost(
    tmp_path: Path, error: BaseException
) -> None:
    interruption = Interruption()

    def fit(tuner: FakeTuner) -> None:
        if isinstance(error, KeyboardInterrupt):
            interruption.is_set = True
        else:
            interruption.fail(error)

    new, _, heard, _ = made(tmp_path, fit, interruption)
    with pytest.raises(type(error)):
        new.run(cells()[:2], "fifo", [])
    assert heard.told == []
    assert not list((tmp_path / "ray" / "driver").iterdir())


def test_search_when_tune_is_silent_on_a_trial_then_it_is_lost_and_optuna_knows(
    tmp_path: Path,
) -> None:
    def fit(tuner: FakeTuner) -> None:
        search = tuner.told["tune_config"].search_alg
        while (suggested := search.suggest(f"t{len(search.keys)}")) != Searcher.FINISHED:
            if suggested["trial_key"] != "key-1":
                report(tuner.events, suggested["trial_key"], status="finished")
                done = {"done": True, "rung": 1, "training_iteration": 1, "compared": 0.5}
                search.on_trial_complete(f"t{len(search.keys) - 1}", done)

    asked: list[Any] = []

    def to_config(values: Any) -> dict[str, Any]:
        asked.append(values)
        return {"trial_key": f"key-{len(asked) - 1}"}

    new, tuner, heard, _ = made(tmp_path, fit)
    space = {"method.edit_lr": Distribution("uniform", low=0.0, high=1.0)}
    new.search(Search({}, space), 0, 3, to_config, cells()[0])
    assert [told[:2] for told in heard.told] == [
        *(("on_result", "key-0"), ("on_result", "key-2"), ("on_lost", "key-1")),
    ]
    states = [each.state.name for each in tuner.told["tune_config"].search_alg.study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert tuner.told["param_space"] is None


def test_close_stops_ray_and_takes_the_drivers_folder_away(tmp_path: Path) -> None:
    new, _, _, machines = made(tmp_path)
    new.run(cells()[:1], "fifo", [])
    new.close()
    assert machines.is_closed
    assert not (tmp_path / "ray" / "driver").exists()
