"""Trials that one process trains along with the one it was given, without Ray."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.unit.file_trials import spec, write, zsre_line
from trainables.bases import read_method
from trainables.methods import method_settings
from trainables.spec import TrialSpec
from trainables.states import read_state, snapshot, write_state
from trainables.trials.compared import Compares
from trainables.trials.packs.claims import Claims
from trainables.trials.packs.mates import Packs, spent_ahead
from trainables.trials.packs.pack import Spent
from trainables.trials.ray_trial import EditTrial
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.workbench import Workbench

LAST_LAYER = 3  # of the tiny backbones; the edited one is below
ARMS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "wide": {"lora_rank": 8, "num_experts": 3, "top_k": 2},
    "quick": {"stop_loss": 1e9},
    "other seed": {"edit_lr": 2e-2, "num_steps": 8},
}
RATIOS = (".token.", ".exact.")


@pytest.fixture
def plan(tmp_path: Path, checkpoints: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """LEMoE with LoRA experts, two batches of four edits; one arm has another seed."""
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(60)])
    wanted = spec(checkpoints["llama"], "zsre", path, num_edits=8, edit_batch_size=4)
    settings = method_settings(read_method("lemoe_lora")) | {
        **{"name": "lemoe_lora", "module": "lemoe", "edit_layer": 2, "lora_rank": 4},
        **{"num_experts": 2, "top_k": 1, "num_steps": 12, "edit_lr": 5e-3, "stop_loss": None},
    }
    return {
        key: {**wanted, "method": settings | arm, "seed": int(key == "other seed")}
        for key, arm in ARMS.items()
    }


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(
        cache=tmp_path / "cache",
        store=tmp_path / "store",
        checkpoint_seconds=0,
        packs=Packs(dict.fromkeys(ARMS, tuple(ARMS)), tmp_path / "claims"),
    )


def process(plan: Mapping[str, Any], runtime: Runtime, key: str) -> EditTrial:
    class Planned(EditTrial):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config, plan, runtime)

    return Planned({"trial_key": key})


def step(trial: EditTrial) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(trial.step()["row"])
    return row


def rows(plan: Mapping[str, Any], runtime: Runtime) -> dict[str, dict[str, Any]]:
    """Of all trials, one after another in one process."""
    trial = process(plan, runtime, next(iter(plan)))
    found = {}
    for key in plan:
        trial.reset_config({"trial_key": key})
        found[key] = step(trial)
    return found


def check_alike(found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for key, row in own.items():
        assert found[key]["status"] == row["status"]
        numbers = {name: row[name] for name in row if any(part in name for part in RATIOS)}
        assert {name: found[key][name] for name in numbers} == pytest.approx(numbers, abs=1e-4)
        assert found[key].get("num_steps") == row.get("num_steps")
        assert found[key].get("records", "") == row.get("records", "")  # every answer the same


def states(runtime: Runtime) -> set[str]:
    return {path.stem for path in (runtime.store / "states").glob("*.safetensors")}


@contextmanager
def entering(layer: int, look: Callable[[int], None]) -> Iterator[None]:
    """Within the block `look` is told how many rows enter a layer, whenever some do."""

    def hook(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if getattr(getattr(module, "self_attn", None), "layer_idx", None) == layer:
            look(len(inputs[0]))

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_packed_trials_have_the_rows_and_answers_of_those_that_ran_alone(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    own = rows(plan, replace(runtime, packs=None, store=runtime.store / "alone"))
    trial = process(plan, runtime, "plain")
    found = {"plain": step(trial)}
    assert states(runtime) == {*ARMS} - {"plain"}  # trained along
    for key in list(ARMS)[1:]:
        trial = process(plan, runtime, key)  # another process
        found[key] = step(trial)
    check_alike(found, own)
    assert own["quick"]["num_steps"] == 0 < own["other seed"]["num_steps"] < 24
    assert not states(runtime)
    assert not any("pack_given_up" in row for row in found.values())


def test_time_of_a_pack_is_divided_among_its_trials(plan: dict[str, Any], runtime: Runtime) -> None:
    trial, spent = process(plan, runtime, "plain"), Spent()
    with spent.running():
        first = step(trial)
    ahead = {key: read_state(runtime.state_path(key)) for key in states(runtime)}
    given = {key: spent_ahead(state) for key, state in ahead.items() if state is not None}
    assert given.keys() == {*ARMS} - {"plain"}
    # No second counts twice, and each trial has some: what is left is none of theirs.
    assert min(each.cpu_seconds for each in given.values()) > 0
    whole = first["seconds"] + sum(each.seconds for each in given.values())
    assert first["seconds"] < whole <= spent.seconds
    cpu = first["cpu_seconds"] + sum(each.cpu_seconds for each in given.values())
    assert first["cpu_seconds"] < cpu <= spent.cpu_seconds
    assert trial.reset_config({"trial_key": "wide"})
    with (own := Spent()).running():
        second = step(trial)
    before = given["wide"].seconds
    assert before < second["seconds"] <= before + own.seconds


def test_process_that_dies_amid_a_pack_then_all_its_trials_go_on_from_their_states(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    own = rows(plan, replace(runtime, packs=None, store=runtime.store / "alone"))
    trial = process(plan, runtime, "plain")

    class Killed(BaseException):
        pass

    def dies(rows: int) -> None:
        if rows > 4 and {*ARMS} == states(runtime):
            raise Killed

    with entering(LAST_LAYER, dies), pytest.raises(Killed):
        trial.step()
    trial.cleanup()  # what the system does for a process that is gone: its claims are free
    assert states(runtime) == {*ARMS}
    found = {"wide": step(process(plan, runtime, "wide"))}  # another one of the pack comes first
    for key in ("other seed", "plain", "quick"):
        found[key] = step(process(plan, runtime, key))
    check_alike(found, own)


def test_trial_that_another_process_was_given_is_not_trained_along(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    assert runtime.packs is not None
    claims = Claims(runtime.packs.claims)
    claims.begin("wide")
    with claims.claimed(["quick"]) as found:
        assert found == ["quick"]
        step(process(plan, runtime, "plain"))
    assert states(runtime) == {"other seed"}


def test_trial_waits_for_the_process_that_trains_it_ahead(tmp_path: Path) -> None:
    ahead, given, waited = Claims(tmp_path), Claims(tmp_path), threading.Event()
    with ahead.claimed(["a", "b"]) as found:
        assert found == ["a", "b"]
        assert not _claimed(given, ["a"])
        thread = threading.Thread(target=given.begin, args=("a", waited.set))
        thread.start()
        assert waited.wait(10)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()
    assert not _claimed(ahead, ["a"])  # it was begun
    assert _claimed(ahead, ["b"])


def _claimed(claims: Claims, keys: list[str]) -> list[str]:
    with claims.claimed(keys) as found:
        return found


def test_trial_that_fails_or_diverges_in_a_pack_ends_as_by_itself_and_the_others_too(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    plan["wide"]["method"]["edit_lr"] = 1e30
    plan["quick"]["method"]["lora_rank"] = 33  # above the backbone's width
    own = rows(plan, replace(runtime, packs=None, store=runtime.store / "alone"))
    assert {key: row["status"] for key, row in own.items()} == {
        **{"plain": "finished", "wide": "diverged", "quick": "failed", "other seed": "finished"}
    }
    found = {"wide": step(process(plan, runtime, "wide"))}  # also as the one that was given
    assert states(runtime) == {"plain", "other seed"}
    for key in ("plain", "quick", "other seed"):
        found[key] = step(process(plan, runtime, key))
    check_alike(found, own)
    assert found["wide"]["error"] == own["wide"]["error"]
    assert found["quick"]["error"] == own["quick"]["error"]


def test_memory_runs_out_in_a_pack_then_each_trial_goes_by_itself(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    own = rows(plan, replace(runtime, packs=None, store=runtime.store / "alone"))
    seen: list[int] = []

    def fits(rows: int) -> None:
        seen.append(rows)
        if torch.is_grad_enabled() and rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with entering(LAST_LAYER, fits):
        found = rows(plan, runtime)
    check_alike(found, own)
    assert "OutOfMemoryError" in found["plain"]["pack_given_up"]
    assert not any("pack_given_up" in found[key] for key in list(ARMS)[1:])
    assert not any("micro_batch" in row for row in found.values())


def test_trials_that_a_scheduler_compares_are_packed_up_to_the_first_rung(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    compares = Compares("reliability.token", ("reliability.token",))
    runtime = replace(runtime, rungs=(0.25, 1.0), compares=compares)
    trial = process(plan, runtime, "plain")
    first = step(trial)
    assert (first["rung"], first["done"]) == (1, False)
    assert first["progress"] == pytest.approx(0.25, abs=0.05)
    states_then = {key: read_state(runtime.state_path(key)) for key in ("wide", "other seed")}
    last = step(trial)
    assert last["done"]
    for key, before in states_then.items():
        now = read_state(runtime.state_path(key))
        assert before is not None
        assert now is not None
        assert now.values == before.values  # whether they go on, the scheduler has yet to say
    alone = replace(runtime, packs=None, store=runtime.store / "alone")
    check_alike({"plain": last}, {"plain": _rungs(process(plan, alone, "plain"))[-1]})
    own = _rungs(process(plan, alone, "wide"))
    for found, expected in zip(_rungs(process(plan, runtime, "wide")), own, strict=True):
        check_alike({"wide": found}, {"wide": expected})
        assert found["compared"] == pytest.approx(expected["compared"], abs=1e-4)


class _KilledError(Exception):
    """Stands for the end of a process."""


def test_trial_that_was_killed_at_a_rung_then_the_rung_is_reported(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    runtime = replace(runtime, rungs=(0.25, 0.5, 1.0), packs=None)
    trial, bench = TrialSpec.parse(plan["plain"]), Workbench(runtime.cache)

    def begun(runtime: Runtime = runtime) -> TrialRun:
        return TrialRun(bench, runtime, "plain", trial)

    run = begun()

    def store() -> None:
        for path, state in run.states():
            write_state(path, snapshot(state))

    def store_and_die() -> None:
        store()
        assert run.loop is not None
        if run.loop.is_at(0.25):
            raise _KilledError

    with pytest.raises(_KilledError):
        run.next_row(store_and_die)
    run.close()
    run = begun()
    assert run.next_row()["rung"] == 1
    store()
    run.close()
    run = begun()  # killed behind the report
    assert run.next_row()["rung"] == 2
    store()
    run.close()
    run = begun(replace(runtime, rungs=(0.1, 0.2, 0.3, 0.4, 1.0)))  # other ones than before
    assert run.next_row()["rung"] == 5
    run.close()


def test_trial_that_nobody_compared_before_then_the_last_rung_that_it_passed_is_reported(
    plan: dict[str, Any], runtime: Runtime
) -> None:
    trial, bench = TrialSpec.parse(plan["plain"]), Workbench(runtime.cache)
    alone = replace(runtime, rungs=(1.0,), packs=None)
    run = TrialRun(bench, alone, "plain", trial)

    def store_and_die() -> None:
        assert run.loop is not None
        for path, state in run.states():
            write_state(path, snapshot(state))
        if run.loop.is_at(0.5):
            raise _KilledError

    with pytest.raises(_KilledError):
        run.next_row(store_and_die)
    run.close()
    run = TrialRun(bench, replace(alone, rungs=(0.1, 0.25, 1.0)), "plain", trial)
    assert run.next_row()["rung"] == 2
    run.close()


def _rungs(trial: EditTrial) -> list[dict[str, Any]]:
    found = [step(trial)]
    while not found[-1]["done"]:
        found.append(step(trial))
    return found


@pytest.mark.parametrize("is_quicker", [True, False])
def test_auto_packs_only_where_that_was_measured_to_be_quicker(
    plan: dict[str, Any], runtime: Runtime, is_quicker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def costs(loops: Any, until: float, *, by_clock: bool) -> tuple[float, float]:
        asked.append((len(loops), until, by_clock))
        return (1.0, 2.0) if is_quicker else (1.0, 1.0)

    monkeypatch.setattr("trainables.trials.packs.mates.costs", costs)
    assert runtime.packs is not None
    measuring = replace(runtime, packs=replace(runtime.packs, measures=True))
    assert step(process(plan, measuring, "plain"))["status"] == "finished"
    assert states(runtime) == ({*ARMS} - {"plain"} if is_quicker else set())
    assert step(process(plan, measuring, "wide"))["status"] == "finished"
    assert asked == [(4, 1.0, False)]  # once, for all processes


def test_auto_measures_real_steps(plan: dict[str, Any], runtime: Runtime) -> None:
    assert runtime.packs is not None
    measuring = replace(runtime, packs=replace(runtime.packs, measures=True))
    found = rows(plan, measuring)
    check_alike(found, rows(plan, replace(runtime, packs=None, store=runtime.store / "alone")))
    assert not any("pack_given_up" in row for row in found.values())
