"""What `--status` says of a store: hand-written ledgers, and a lease of a living process."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import sweep
from orchestrator.errors import UsageError
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
    assert {arm.name: arm.mean for arm in status.arms} == {
        name: sum(values) / 2 for name, values in mean.items()
    }
    best = max(mean, key=lambda name: sum(mean[name]))
    lines = status_lines(status)
    heading = lines.index("best arms by average (± 95% over seeds, from three on):")
    assert lines[heading + 1] == f"  {sum(mean[best]) / 2:.2f} (2 seeds) {best}"
    assert read_status(str(tmp_path)).arms == ()  # of a store: its ablations have no common score


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


def test_watch_without_status_then_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--watch"]) == 2
    assert "--watch goes with --status" in capsys.readouterr().err
