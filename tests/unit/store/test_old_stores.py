"""Stores that an earlier version wrote: their results still count, and make the same table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from analysis import table
from orchestrator.planning import plan
from orchestrator.planning.cell import Resolved
from orchestrator.planning.identity import fingerprint
from orchestrator.settings import loading as config
from orchestrator.store.ledger import Ledger
from orchestrator.store.settled import Options, ended
from orchestrator.terminal.dry_run import dry_run, left
from orchestrator.terminal.status import read_status, status_lines
from orchestrator.tracking.sync import sync_plan

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "store_without_schema"
SMOKE = ("ablation=smoke", "backbone=facts_tiny", "protocol.num_edits=4", "workers=1")
SHORT = (*SMOKE, "method=ft_m", "method.num_steps=8", "method.stop_loss=0", "seeds=[0]")
# The commands of the fixture's README.
METHODS = (*SMOKE, "axes.method=[no_edit,ft_m,lemoe]", "seeds=[0,1]")
HALVING = (*SHORT, "axes.method.edit_lr=[1e-5,5e-3,1e-2,2e-2,1e30]", "scheduler=asha")
DIVERGES = (*SHORT, "axes.method.edit_lr=[1e36]")
TAKES_LONG = (*SHORT, "axes.method.edit_lr=[3e-3]", "max_trial_seconds=0.01")
COMMANDS = (METHODS, HALVING, DIVERGES, TAKES_LONG)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE / "store", tmp_path / "results"))


def planned(store: Path, typed: tuple[str, ...]) -> plan.Plan:
    return plan.expand(config.load([*typed, f"store={store}"]))


@pytest.mark.parametrize(("typed", "expected"), zip(COMMANDS, (6, 5, 1, 1), strict=True))
def test_old_store_when_its_command_is_typed_again_then_nothing_is_left(
    store: Path, typed: tuple[str, ...], expected: int
) -> None:
    made, history = planned(store, typed), Ledger.read(store)

    assert history.damaged == ()
    assert len(made.trials) == expected
    assert left(made, history, Options()) == ()
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(dry_run(made, Options()))
    last = console.export_text().strip().splitlines()[-1].strip()
    assert last == f"{expected} of {expected} trials settled before; nothing left to do"


def test_old_store_when_options_reopen_trials_then_the_same_as_ever(store: Path) -> None:
    history = Ledger.read(store)
    halving, takes_long = planned(store, HALVING), planned(store, TAKES_LONG)

    reopened = left(halving, history, Options(complete_stopped=True))
    assert sorted(spec.swept["method.edit_lr"] for spec in reopened) == [1e-5, 5e-3, 1e30]
    assert left(takes_long, history, Options(retry_failed=True)) == takes_long.trials


def test_old_store_when_its_trials_are_named_as_a_driver_does_then_by_the_same_fingerprints(
    store: Path,
) -> None:
    """A driver settles by fingerprint: of the plan, and of what it finds of weights and data."""
    history = Ledger.read(store)
    named = set()
    for typed in COMMANDS:
        trials = planned(store, typed).trials
        for spec, end in zip(trials, ended(trials, history), strict=True):
            assert end is not None
            resolved = Resolved(**end.resolved)
            assert resolved.identity == end.resolved
            assert fingerprint(spec, resolved.identity) == end.fingerprint
            named.add(end.fingerprint)
    assert named == history.settled() == set(history.ends)


def test_old_store_when_asked_for_its_status_then_counts_all_ends(store: Path) -> None:
    assert status_lines(read_status(str(store))) == [
        "1 diverged",
        "1 failed",
        "8 finished",
        "3 stopped",
        "  1 x loss is nan after 3 steps (edit_lr=1e+36)",
        "  1 x TrialOverdueError: took longer than max_trial_seconds=0.01",
        "  3 stopped by asha",
    ]


def test_old_store_when_mlflow_is_made_of_its_ledger_then_the_table_is_the_same_text(
    store: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_database, store / "mlflow.db")
    sent = [sync_plan(planned(store, typed)).num_sent for typed in COMMANDS]
    assert sent == [6, 5, 1, 1]

    assert table.main(["smoke", f"store={store}"]) == 0

    assert capsys.readouterr().out == (FIXTURE / "table.md").read_text()
