"""What `--status` says of a store: hand-written ledgers, and a lease of a living process."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import sweep
from orchestrator.errors import UsageError
from orchestrator.planning import plan
from orchestrator.planning.plan import Plan, spec_for
from orchestrator.settings import loading as config
from orchestrator.store.leases import Leases
from orchestrator.store.ledger import Ledger
from orchestrator.store.settled import ended
from orchestrator.terminal.running_trials import pulse_folder
from orchestrator.terminal.status import read_status, status_lines, watch
from tests.unit.ended_trials import cell, made_plan, written
from tests.unit.terminal.test_running_trials import write


def test_status_counts_what_ended_by_reason_and_what_is_left(tmp_path: Path) -> None:
    made = made_plan(tmp_path)
    written(tmp_path, made.trials[0], "finished")
    written(tmp_path, made.trials[1], "failed", error="ValueError: no")
    written(tmp_path, made.trials[2], "stopped", rule="asha")
    status = read_status(str(tmp_path), made)
    assert status.counts == {"finished": 1, "failed": 1, "stopped": 1}
    assert status.reasons == {"ValueError: no": 1}
    assert status.stopped_by == {"asha": 1}
    assert status.num_left == 1
    assert status_lines(status)[:3] == ["1 failed", "1 finished", "1 stopped"]
    assert status_lines(status)[3:5] == ["  1 x ValueError: no", "  1 stopped by asha"]


def test_status_of_a_plan_ranks_its_arms_by_score(tmp_path: Path) -> None:
    made = made_plan(tmp_path)
    names = ("reliability", "generality", "locality_far")
    for spec, value in zip(made.trials, (0.25, 0.5, 0.75, 1.0), strict=True):
        written(tmp_path, spec, "finished", **{f"{name}.token.final": value for name in names})
    mean: dict[str, list[float]] = {}
    for spec, value in zip(made.trials, (0.25, 0.5, 0.75, 1.0), strict=True):
        mean.setdefault(spec.arm, []).append(value)
    status = read_status(str(tmp_path), made)
    assert {arm.name: arm.mean for arm in status.arms[""]} == {
        name: sum(values) / 2 for name, values in mean.items()
    }
    best = max(mean, key=lambda name: sum(mean[name]))
    lines = status_lines(status)
    heading = lines.index("best arms by average (± 95% over seeds, from three on):")
    assert lines[heading + 1] == f"  {sum(mean[best]) / 2:.2f} (2 seeds) {best}"
    assert read_status(str(tmp_path)).arms == {}  # of a store: its ablations have no common score


def searched(folder: Path, store: Path, *typed: str) -> Plan:
    return plan.expand(config.load(["ablation=search", f"store={store}", *typed], folder))


def drawn(store: Path, made: Plan, score: float, seed: int, part: str | None = None) -> None:
    """One ended trial of a search, always of the same draw."""
    values = {"method.edit_lr": 1e-3, "method.lora_rank": 64, "method.edit_layer": 8}
    names = ("reliability", "generality", "locality_far")
    metrics = {f"{name}.token.final": score for name in names}
    spec = spec_for(made.config, values, seed, part)
    written(store, spec, "finished", **metrics)


def test_status_of_a_search_tells_what_ran_again_apart_from_what_was_drawn(
    tmp_path: Path, folder: Path
) -> None:
    made = searched(folder, tmp_path, "scheduler.metric=average.token")
    drawn(tmp_path, made, 0.9, 0)
    for seed in range(2):
        drawn(tmp_path, made, 0.5, seed, "report")
    assert status_lines(read_status(str(tmp_path), made)) == [
        "3 finished",
        "best arms by average on report (± 95% over seeds, from three on):",
        "  0.50 (2 seeds) edit_lr=0.001 lora_rank=64 edit_layer=8",
        "best arms by average on tune (± 95% over seeds, from three on):",
        "  0.90 (1 seed) edit_lr=0.001 lora_rank=64 edit_layer=8",
    ]


@pytest.mark.parametrize(
    "typed",
    [
        "backbone.model='embedded:other'",
        "dataset.frequency_band=[0,0.5]",
        "protocol.num_edits=4",
        "method.num_steps=9",
    ],
)
def test_status_of_a_search_leaves_out_trials_of_other_settings(
    tmp_path: Path, folder: Path, typed: str
) -> None:
    made = searched(folder, tmp_path, "scheduler.metric=average.token")
    drawn(tmp_path, searched(folder, tmp_path, "scheduler.metric=average.token", typed), 0.1, 0)
    drawn(tmp_path, made, 0.9, 0)  # the newest: of two settings of the method it is the one shown
    status = read_status(str(tmp_path), made)
    assert status.counts == {"finished": 1}
    assert [(arm.mean, arm.seeds) for arm in status.arms["tune"]] == [(pytest.approx(0.9), 1)]


def test_status_of_a_grid_names_a_trial_that_another_ablation_ran_as_its_own_arm(
    tmp_path: Path,
) -> None:
    made = made_plan(tmp_path)
    names = ("reliability", "generality", "locality_far")
    spec = replace(made.trials[0], ablation="another", arm="as it was called there")
    written(tmp_path, spec, "finished", **{f"{name}.token.final": 0.5 for name in names})
    (arm,) = read_status(str(tmp_path), made).arms[""]
    assert arm.name == made.trials[0].arm


@pytest.mark.parametrize("words", [[], ["ablation=smoke"], ["--watch"]])
def test_status_of_a_store_that_is_not_there_then_it_is_refused(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "nostore"
    assert sweep.main(["--status", f"store={store}", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: store={store}: no such folder;")
    assert not store.exists()


def test_status_when_a_driver_lives_then_names_what_it_holds(tmp_path: Path) -> None:
    made = made_plan(tmp_path)
    first = written(tmp_path, made.trials[0], "finished")
    leases = Leases(tmp_path / "ledger" / "other.jsonl")
    held = leases.claim([first.key, cell(made.trials[1]).key], 500, set)
    assert len(held) == 2
    status = read_status(str(tmp_path))
    assert sum(status.held.values()) == 1  # the one that has ended is not under way
    leases.close()
    assert read_status(str(tmp_path)).held == {}


def test_status_shows_what_the_trials_of_living_drivers_do(tmp_path: Path) -> None:
    for driver in ("alive", "killed"):
        write(pulse_folder(tmp_path, driver), f"trial of {driver}")
    assert read_status(str(tmp_path)).running == []
    leases = Leases(tmp_path / "ledger" / "alive.jsonl")
    (tmp_path / "ledger").mkdir()
    leases.claim([], 0, set)
    status = read_status(str(tmp_path))
    assert [trial.name for trial in status.running] == ["arm of trial of alive"]
    assert "  arm of trial of alive: starting 0:04, 0:04" in status_lines(status)
    leases.close()


def test_ended_finds_a_trial_by_what_its_row_says_of_weights_and_data(tmp_path: Path) -> None:
    made = made_plan(tmp_path)
    own = written(tmp_path, made.trials[1], "finished")
    found = ended(made.trials, Ledger.read(tmp_path))
    assert [end and end.fingerprint for end in found] == [None, own.key, None, None]


def test_status_of_an_empty_store_says_so(tmp_path: Path) -> None:
    assert status_lines(read_status(str(tmp_path))) == ["none ended"]


def test_load_store_takes_nothing_else() -> None:
    assert config.load_store(["store=here"]) == "here"
    assert config.load_store([]) == "results"
    with pytest.raises(UsageError, match=r"^seeds: without ablation=NAME"):
        config.load_store(["seeds=[0]", "store=here"])


def test_watch_when_a_trial_is_held_then_it_goes_on_until_nobody_holds_any(tmp_path: Path) -> None:
    made = made_plan(tmp_path)
    written(tmp_path, made.trials[0], "finished")
    leases = Leases(tmp_path / "ledger" / "other.jsonl")
    leases.claim([cell(made.trials[1]).key], 500, set)
    out = io.StringIO()
    console = Console(file=out, width=120)
    watching = threading.Thread(
        target=watch, args=(console, str(tmp_path)), kwargs={"every_seconds": 0.01}, daemon=True
    )
    watching.start()
    watching.join(0.3)
    assert watching.is_alive()
    assert "1 finished\n1 held by" in out.getvalue()
    written(tmp_path, made.trials[1], "failed", error="no")
    leases.close()
    watching.join(20)
    assert not watching.is_alive()
    assert out.getvalue().splitlines()[-3:] == ["1 failed", "1 finished", "  1 x no"]
