"""The command: `python orchestrator/sweep.py ablation=NAME [key=value ...]`."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import os
import sys
from pathlib import Path

# Python puts this file's folder in front; the packages are found from the repository's root.
sys.path[0] = str(Path(__file__).resolve().parents[1])
# Nobody plugs into pydantic here, and looking for plug-ins reads the metadata of every package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import argparse
import gc
import shlex
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.errors import UsageError
from orchestrator.planning import plan
from orchestrator.redaction import redacted
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces
from orchestrator.store.provenance import ROOT  # `ray submit` copies this file elsewhere
from orchestrator.terminal import listing
from orchestrator.terminal.arguments import check_together, options, parser
from orchestrator.terminal.lines import outcome_lines, unsent_lines
from orchestrator.threads import wait_passively

if TYPE_CHECKING:
    from orchestrator.tracking.place import Store

USAGE_ERROR, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 all done, 1 some failed or nothing moved, 2 wrong usage, 130 interrupted."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for words, and nothing else
        import argcomplete

        argcomplete.autocomplete(parser())
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    try:
        typed = parser().parse_intermixed_args(arguments)
        check_together(typed)
        if typed.list:
            from orchestrator.terminal.backbones import backbones

            gc.disable()  # a tenth of its time, for next to no garbage
            spaces = SearchSpaces()
            console.print(listing.ablations(spaces))
            console.print()
            console.print(backbones(spaces))
            return 0
        if typed.new is not None:
            return new(typed.new, typed.overrides)
        is_named = any(each.startswith("ablation=") for each in typed.overrides)
        if typed.explain is not None and not is_named:
            return explain(console, typed.explain, typed.overrides)
        if typed.status and not is_named:
            return status(console, config.load_store(typed.overrides), typed.watch)
        expanded = plan.expand(config.load(typed.overrides))
        if typed.status:
            return status(console, expanded.config.store, typed.watch, expanded)
        if typed.explain is not None:
            return explain(console, typed.explain, (), expanded)
        if typed.sync:
            return sync(expanded)
        if typed.dry_run:
            from orchestrator.terminal.dry_run import dry_run  # a tenth of --list's time, as status

            console.print(dry_run(expanded, options(typed), typed.simulate_gpus))
            return 0
        if typed.write_answers is not None:
            return answers(expanded, typed.write_answers)
        return run(expanded, typed, arguments)
    except KeyboardInterrupt:
        return interrupted(arguments)
    except UsageError as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return USAGE_ERROR


def interrupted(arguments: Sequence[str]) -> int:
    """Print how to go on after an interruption; returns the exit status."""
    print(f"interrupted; {to_go_on(arguments)}")
    return INTERRUPTED


def to_go_on(arguments: Sequence[str]) -> str:
    """A line with the command that goes on without running again what has just run."""
    again = [argument for argument in arguments if argument != "--fresh"]
    return f"to go on: python {sys.argv[0]} {shlex.join(again)}"


def status(
    console: Console, store: str, is_watched: bool, expanded: plan.Plan | None = None
) -> int:
    """Print how far a plan, or all that a store holds, has come."""
    from orchestrator.terminal.status import (  # a tenth of --list's time
        read_status,
        status_lines,
        watch,
    )

    if is_watched:
        watch(console, store, expanded)
    else:
        print("\n".join(status_lines(read_status(store, expanded))))
    return 0


def new(name: str, overrides: Sequence[str]) -> int:
    """Write the file of an ablation to begin with, and say what to do next."""
    from orchestrator.settings.new_ablation import write_ablation

    if overrides:
        raise UsageError(f"{overrides[0]}: nothing else counts with --new; edit the file")
    print(
        f"{write_ablation(name, SearchSpaces())}: its question, axes and arms are yours to change"
    )
    print(f"then: python {sys.argv[0]} ablation={name} --dry-run")
    return 0


def explain(
    console: Console, key: str, overrides: Sequence[str], expanded: plan.Plan | None = None
) -> int:
    """Print what a key means and, of a plan, its values."""
    from orchestrator.terminal.explaining import explained

    if overrides:
        raise UsageError(f"{overrides[0]}: without ablation=NAME nothing else counts")
    console.print(explained(key, SearchSpaces(), expanded))
    return 0


def sync(expanded: plan.Plan) -> int:
    """Write the ledger's rows of a plan to MLflow; those that it has already are skipped."""
    from orchestrator.terminal.waiting import Waiting

    with Waiting("writing the ledger into MLflow"):
        from orchestrator.tracking.summary import try_to_show
        from orchestrator.tracking.sync import sync_plan  # heavy: mlflow

        synced = sync_plan(expanded)
        if synced.num_sent:
            try_to_show(place(expanded), expanded.config.ablation, tables(expanded))
    print(
        f"{synced.num_sent} trials of the ledger stand in MLflow, "
        f"{synced.num_unsent} could not be written"
    )
    for reason in synced.reasons:
        print(f"  {reason}")
    if synced.num_other:
        print(
            f"{synced.num_other} more of the ablation are not in this plan: "
            "to send them, type the keys of their sweep"
        )
    return FAILED if synced.num_unsent else 0


def answers(expanded: plan.Plan, file: Path) -> int:
    """Write the answers that the questions of a serial plan get."""
    from orchestrator.terminal.waiting import Waiting

    with Waiting("drawing the questions and their answers"):
        from orchestrator.answers import write_answers  # heavy: torch

        said = write_answers(expanded, file)
    print(said)
    return 0


def place(expanded: plan.Plan) -> Store:
    """Where a plan's results are."""
    from orchestrator.tracking.place import Store

    return Store(Path(expanded.config.store), expanded.config.mlflow)


def table_commands(expanded: plan.Plan) -> list[list[str]]:
    """What prints the published tables that a plan answers, or its own."""
    # analysis is another program: it reads MLflow and knows nothing of sweeps
    table, words = str(ROOT / "analysis" / "table.py"), place(expanded).words
    names = expanded.config.paper or (expanded.config.ablation,)
    return [[sys.executable, table, name, *words] for name in names]


def tables(expanded: plan.Plan) -> list[str]:
    """What `table_commands` print into a file: Markdown."""
    return [
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
        for command in table_commands(expanded)
    ]


def run(expanded: plan.Plan, typed: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run the plan and print its outcome, with its table."""
    from orchestrator.terminal.waiting import Waiting
    from trainables.errors import EditingError

    store, server = expanded.config.store, expanded.config.mlflow
    where = place(expanded)
    try:
        with Waiting("loading libraries") as waiting:
            from orchestrator.running import launch  # heavy: torch, ray and mlflow
            from orchestrator.tracking.summary import has_view, page_link, try_to_show

            outcome = launch.run(expanded, options(typed), waiting)
    except EditingError as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return USAGE_ERROR
    again = shlex.join(["python", sys.argv[0], "--sync", *typed.overrides])
    print("\n".join(outcome_lines(outcome) + unsent_lines(outcome, again)))
    if outcome.was_interrupted:
        return interrupted(arguments)
    if outcome.standstill:
        print(f"error: {outcome.standstill}; {to_go_on(arguments)}", file=sys.stderr)
        return FAILED
    sys.stdout.flush()
    with Waiting("reading the results"):
        printed = tables(expanded)
        number = outcome.experiment_id
        if number and (outcome.counts or not has_view(where, number)):
            try_to_show(where, expanded.config.ablation, printed)
    if sys.stdout.isatty():  # where they fit its width
        for command in table_commands(expanded):
            subprocess.run(command, check=False)
    else:
        print(*printed, sep="", end="", flush=True)
    if expanded.config.plan == "tune":
        words = [f"ablation={expanded.config.ablation}", *where.words]
        print("\nas presets: " + shlex.join(["python", "analysis/presets.py", *words]) + " > FILE")
    if number and server:
        print(f"\nbrowse: {page_link(where, number, server)}")
    elif number:
        page = page_link(where, number)
        print(f"\nbrowse: make ui STORE={shlex.quote(store)}, then {page}")
    return FAILED if outcome.failures else 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    wait_passively()
    sys.exit(main(sys.argv[1:]))
