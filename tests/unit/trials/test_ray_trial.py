"""A trial that runs out of memory, without Ray: its steps are called as Tune would."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.end_to_end.commands import own_file_system
from tests.end_to_end.test_full_disk import fill
from tests.unit.file_trials import spec, write, zsre_line
from trainables.bases import read_method
from trainables.methods import method_settings
from trainables.pulse import Moment, read_pulses
from trainables.states import read_state
from trainables.trials.ray_trial import ActorSpentError, EditTrial
from trainables.trials.run import Runtime

LAST_LAYER = 3  # of the tiny backbones; the edited one is below
NUM_EDITS = 12
TRIALS = ("first", "second")
OTHER = "of another method"
RAN_OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def trial(tmp_path: Path, checkpoints: dict[str, Path]) -> EditTrial:
    """FT-M on two batches of six edits, twice in one actor."""
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(60)])
    settings = method_settings(read_method("ft_m"))
    wanted = spec(checkpoints["llama"], "zsre", path, num_edits=NUM_EDITS, edit_batch_size=6)
    wanted["method"] = settings | {
        "name": "ft_m",
        "module": "ft",
        "edit_layer": 2,
        "num_steps": 12,
        "edit_lr": 5e-3,
    }
    runtime = Runtime(
        cache=tmp_path / "cache",
        store=tmp_path / "store",
        checkpoint_seconds=0,
        pulses=tmp_path / "pulses",
        max_trials=2,
    )

    class Planned(EditTrial):
        def setup(self, config: dict[str, Any]) -> None:
            other = {**wanted, "method": {**wanted["method"], "name": "ft_other"}}
            super().setup(config, {**dict.fromkeys(TRIALS, wanted), OTHER: other}, runtime)

    return Planned({"trial_key": TRIALS[0]})


@contextmanager
def memory(
    fits: Callable[[int], bool],
    said: RuntimeError = RAN_OUT,
) -> Iterator[list[int]]:
    """Runs out within the block when rows enter the last layer that do not fit; notes all that do.

    The hook is torch's own for all modules: one on a module of the backbone would count as a trace
    that the trial left behind.
    """
    seen: list[int] = []

    def check(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if getattr(getattr(module, "self_attn", None), "layer_idx", None) == LAST_LAYER:
            rows = len(inputs[0])
            if not fits(rows):
                raise said
            seen.append(rows)

    handle = register_module_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


def step(trial: EditTrial) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(trial.step()["row"])
    return row


def scores(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if ".token." in key or ".exact." in key}


def test_out_of_memory_halves_the_micro_batch_and_changes_no_score(trial: EditTrial) -> None:
    expected = step(trial)
    assert trial.reset_config({"trial_key": TRIALS[1]})
    with memory(lambda rows: rows <= 3) as seen:
        row = step(trial)
    assert expected["status"] == row["status"] == "finished"
    assert "micro_batch" not in expected
    # the largest batch had more rows than 3, and halving it went on until it fitted
    assert row["micro_batch"] in (2, 3)
    assert max(seen) == row["micro_batch"]
    assert len(scores(row)) > 6
    assert scores(row) == pytest.approx(scores(expected), abs=1e-6)
    assert row["num_steps"] == expected["num_steps"] > 2


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
    ],
)
def test_out_of_memory_in_a_library_s_own_words_halves_the_micro_batch_too(
    trial: EditTrial, said: str
) -> None:
    with memory(lambda rows: rows <= 3, RuntimeError(said)):
        row = step(trial)
    assert row["status"] == "finished", row["error"]
    assert row["micro_batch"] in (2, 3)


def test_error_that_says_nothing_of_memory_fails_the_trial_at_once(trial: EditTrial) -> None:
    with memory(lambda rows: False, RuntimeError("CUDA error: device-side assert triggered")):
        row = step(trial)
    assert (row["status"], row["error"]) == (
        "failed",
        "RuntimeError: CUDA error: device-side assert triggered",
    )


def test_trial_of_another_method_begins_with_all_its_rows(trial: EditTrial) -> None:
    with memory(lambda rows: rows <= 3):
        first = step(trial)
    assert trial.reset_config({"trial_key": OTHER})
    other = step(trial)
    assert first["micro_batch"] <= 3
    assert other["status"] == "finished", other["error"]
    assert "micro_batch" not in other


def test_actor_keeps_the_reduced_micro_batch_for_its_next_trial(trial: EditTrial) -> None:
    with memory(lambda rows: rows <= 3):
        first = step(trial)
    assert trial.reset_config({"trial_key": TRIALS[1]})

    def fits(rows: int) -> bool:
        assert rows <= first["micro_batch"]  # not tried again with more
        return True

    with memory(fits):
        second = step(trial)
    assert second["status"] == "finished", second["error"]
    assert second["micro_batch"] == first["micro_batch"]


def test_out_of_memory_with_single_rows_fails_the_trial_and_keeps_the_actor(
    trial: EditTrial,
) -> None:
    with memory(lambda rows: False):
        row = step(trial)
    assert (row["status"], row["done"]) == ("failed", True)
    assert row["error"].startswith("MemoryExhaustedError: out of memory with micro_batch=1")
    assert trial.reset_config({"trial_key": TRIALS[1]})  # the backbone is what it was
    assert step(trial)["status"] == "finished"


def test_out_of_memory_after_a_saved_state_goes_on_from_there(
    trial: EditTrial, tmp_path: Path
) -> None:
    done_at: list[int] = []  # batches done in the saved state, whenever rows are run
    ran_out: list[int] = []  # how many were noted when memory ran out

    def fits(rows: int) -> bool:
        trial._writer.wait()
        state = read_state(tmp_path / "store" / "states" / f"{TRIALS[0]}.safetensors")
        done = 0 if state is None else int(state.values["batches_done"])  # type: ignore[arg-type]
        done_at.append(done)
        if done == 1 and not ran_out:
            ran_out.append(len(done_at))
            return False
        return True

    with memory(fits):
        row = step(trial)
    assert row["status"] == "finished"
    assert row["edits_seen"] == NUM_EDITS
    assert set(done_at[: ran_out[0] - 1]) == {0}
    assert set(done_at[ran_out[0] :]) <= {1, 2}  # the first batch was not edited again


def test_trial_when_the_disk_is_full_then_it_has_not_ended_and_runs_again(
    trial: EditTrial, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with own_file_system(store, size_mib=4):
        fill(store / "filler")
        full = trial.step()
        row = json.loads(full["row"])
        assert full["done"]
        assert row["status"] == "unstored"
        assert "No space left on device" in row["error"]
        assert not [path for path in store.rglob("*") if path.suffix == ".tmp"]

        (store / "filler").unlink()
        assert trial.reset_config({"trial_key": TRIALS[0]})
        row = json.loads(trial.step()["row"])
        assert row["status"] == "finished"
        assert (store / "records" / row["records"]).is_file()


def test_actor_that_has_done_its_share_takes_the_next_trial_and_gives_it_back(
    trial: EditTrial,
) -> None:
    for key in (TRIALS[0], TRIALS[1]):
        assert trial.reset_config({"trial_key": key}) or key == TRIALS[0]
    with pytest.raises(ActorSpentError, match=r"^the process is replaced: it has run 2 trials$"):
        trial.step()


def leaves_a_hook(trial: EditTrial) -> None:
    """What a method that forgets one of its hooks does."""
    trial._bench.backbone(trial._run.spec).model.register_forward_hook(lambda *_: None)


def raises(trial: EditTrial) -> None:
    """What a method does whose `remove` is broken."""
    assert trial._run.loop is not None

    def remove() -> None:
        raise KeyError("no such layer\nto take out")

    trial._run.loop.method.remove = remove


@pytest.mark.parametrize(
    ("leak", "what"),
    [(leaves_a_hook, "was left with a hook"), (raises, "KeyError: 'no such layer")],
)
@pytest.mark.parametrize("is_stopped", [False, True])
def test_method_that_does_not_restore_the_backbone_costs_its_process_and_no_other_trial(
    trial: EditTrial, leak: Callable[[EditTrial], None], what: str, is_stopped: bool
) -> None:
    trial._run.next_row()  # the method is in
    leak(trial)
    if not is_stopped:  # by a scheduler, between two rungs
        row = step(trial)
        assert row["status"] == "finished"
        assert what in row["unrestored"]
        assert list((trial._runtime.store / "records").iterdir())
    assert trial.reset_config({"trial_key": TRIALS[1]})
    with pytest.raises(ActorSpentError, match=r"^the process is replaced: ") as spent:
        trial.step()
    assert what in str(spent.value)
    assert spent.value.preempted  # which Tune does not count among a trial's failures


def test_trial_says_what_it_does_from_loading_to_the_last_batch(
    trial: EditTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Moment] = []
    say = trial._pulse.say

    def heard(moment: Moment) -> None:
        said.append(moment)
        say(moment)

    monkeypatch.setattr(trial._pulse, "say", heard)
    trial._pulse._began -= 60.0  # it is no quick trial
    trial._pulse.write()
    [beat] = read_pulses(tmp_path / "pulses")
    assert (beat.key, beat.moment.stage) == ("first", "starting")
    assert step(trial)["status"] == "finished"
    stages = list(dict.fromkeys(moment.stage for moment in said))
    assert stages == [
        *("loading the backbone", "reading the data", "drawing the edits"),
        *("asking the backbone what it knows", "asking the unedited backbone"),
        *("preparing", "editing", "finishing the batch", "evaluating"),
    ]
    editing = [moment for moment in said if moment.stage == "editing"]
    # The loop speaks before each 10 and 2 of 12 steps, the optimiser behind each step's loss.
    assert [(m.batch, m.step) for m in editing if m.loss is None] == [(1, 0), (2, 0)]
    assert [m.step for m in editing if m.batch == 2][-1] == 12
    assert {(m.num_batches, m.num_steps) for m in editing} == {(2, 12)}
    assert list((tmp_path / "pulses").iterdir()) == []
