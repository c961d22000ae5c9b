"""What `--dry-run` says is left, over ledgers written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import UsageError
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from orchestrator.store.ledger import Ledger
from orchestrator.store.settled import Options
from orchestrator.terminal.dry_run import dry_run, left, simulated
from tests.unit.ended_trials import made_plan, written
from tests.unit.small_spaces import write_small_spaces


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), [3]),
        (Options(retry_failed=True), [1, 3]),
        (Options(complete_stopped=True), [2, 3]),
        (Options(fresh=True), [0, 1, 2, 3]),
    ],
)
def test_left_when_some_have_ended_then_the_options_say_which_run_again(
    tmp_path: Path, options: Options, expected: list[int]
) -> None:
    made = made_plan(tmp_path)
    written(tmp_path, made.trials[0], "finished")
    written(tmp_path, made.trials[1], "failed", error="ValueError: no")
    written(tmp_path, made.trials[2], "stopped", rule="asha")
    found = left(made, Ledger.read(tmp_path), options)
    assert found == tuple(made.trials[number] for number in expected)


def test_left_when_a_search_then_all_of_it(tmp_path: Path) -> None:
    spaces = write_small_spaces(tmp_path / "search_spaces")
    made = plan.expand(config.load(["ablation=search", f"store={tmp_path}"], spaces))
    written(tmp_path, made.typical[0], "finished")
    assert left(made, Ledger.read(tmp_path), Options()) == made.typical


def test_dry_run_when_trials_have_ended_then_only_the_others_are_forecast(tmp_path: Path) -> None:
    made = made_plan(tmp_path)
    for spec in made.trials[:2]:
        written(tmp_path, spec, "finished")
    assert outlook(made).startswith("2 of 4 trials settled before; forecast (")
    for spec in made.trials[2:]:
        written(tmp_path, spec, "finished")
    assert outlook(made) == "4 of 4 trials settled before; nothing left to do"
    assert outlook(made, fresh=True).startswith("forecast (from earlier trials)")


def test_simulated_when_all_have_ended_then_still_the_whole_plan(tmp_path: Path) -> None:
    made = made_plan(tmp_path)
    for spec in made.trials:
        written(tmp_path, spec, "finished")  # 8 s each
    two, four = simulated(made, Ledger.read(tmp_path).ends.values(), (2, 4))
    # a start of 15 s, then two after one another, or all at once
    assert two.makespan_seconds == pytest.approx(15 + 2 * 8, abs=0.3)
    assert four.makespan_seconds == pytest.approx(15 + 8, abs=0.3)


def test_simulated_when_a_trial_needs_more_gpus_than_there_are_then_says_so(
    tmp_path: Path,
) -> None:
    typed = ["ablation=smoke", "backbone=llama2_7b", "gpus_per_trial=4", "parallel=data"]
    with pytest.raises(UsageError, match="--simulate-gpus 2: a trial needs 4 GPUs"):
        simulated(plan.expand(config.load([*typed, f"store={tmp_path}"])), [], (8, 2))


def outlook(made: plan.Plan, fresh: bool = False) -> str:
    """The line below the tables."""
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(dry_run(made, Options(fresh=fresh)))
    return next(
        line
        for line in console.export_text().splitlines()
        if "forecast" in line or "settled" in line
    )
