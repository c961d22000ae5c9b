"""The command: `python orchestrator/sweep.py ablation=NAME [key=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts this file's folder in front; the packages are found from the repository's root.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
import shlex
import subprocess
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from orchestrator import config, listing, plan
from orchestrator.errors import UsageError
from orchestrator.estimate import prospect
from orchestrator.ledger import Ledger
from orchestrator.rows import Options

ROOT = Path(__file__).resolve().parents[1]
USAGE_ERROR, FAILED, INTERRUPTED = 2, 1, 130


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as for every other mistake."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UsageError(f"{message}; see --help")


def parser() -> Parser:
    """Options and free key=value arguments."""
    made = Parser(
        prog="sweep.py",
        description="Sweep an ablation; the same command again goes on where it stopped.",
        epilog="keys: search_spaces/README.md; for example ablation=lemoe_lora seeds=[0,1]",
    )
    made.add_argument("overrides", nargs="*", metavar="key=value")
    made.add_argument("--list", action="store_true", help="every ablation with its question")
    made.add_argument("--dry-run", action="store_true", help="the plan and its forecast")
    made.add_argument(
        "--simulate-gpus",
        type=gpu_counts,
        default=(),
        metavar="N[,N]",
        help="with --dry-run: the plan's time on clusters of N GPUs",
    )
    made.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    made.add_argument("--complete-stopped", action="store_true", help="run stopped ones to the end")
    made.add_argument("--fresh", action="store_true", help="run finished trials anew, too")
    return made


def gpu_counts(typed: str) -> tuple[int, ...]:
    """Numbers of GPUs, separated by commas."""
    words = typed.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{typed}: give numbers from 1 up, such as 8,64,1024")
    return tuple(int(word) for word in words)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 all done, 1 some failed, 2 wrong usage, 130 interrupted."""
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    try:
        typed = parser().parse_intermixed_args(arguments)
        if typed.list:
            console.print(listing.ablations())
            return 0
        expanded = plan.expand(config.load(typed.overrides))
        if typed.dry_run:
            ends = Ledger.read(expanded.config.store).ends.values()
            console.print(listing.dry_run(expanded, *prospect(expanded, ends, typed.simulate_gpus)))
            return 0
        return run(expanded, typed, arguments)
    except KeyboardInterrupt:
        return interrupted(arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR


def interrupted(arguments: Sequence[str]) -> int:
    """Say how to go on: by the same command, but without running anew what has just run."""
    again = [argument for argument in arguments if argument != "--fresh"]
    print(f"interrupted; to go on: python {sys.argv[0]} {shlex.join(again)}")
    return INTERRUPTED


def run(expanded: plan.Plan, typed: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run the plan and print what it came to, with its table."""
    from orchestrator import launch  # heavy: torch, ray and mlflow
    from orchestrator.tracking import chart_link
    from trainables.errors import EditingError

    store = expanded.config.store
    options = Options(typed.retry_failed, typed.complete_stopped, typed.fresh)
    try:
        outcome = launch.run(expanded, options)
    except EditingError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    print("\n".join(listing.outcome_lines(outcome)))
    if outcome.was_interrupted:
        return interrupted(arguments)
    sys.stdout.flush()
    table = str(ROOT / "analysis" / "table.py")
    for name in expanded.config.paper or (expanded.config.ablation,):
        # analysis is another program: it reads MLflow and knows nothing of sweeps
        subprocess.run([sys.executable, table, name, f"store={store}"], check=False)
    if outcome.experiment_id:
        print(f"\nbrowse: make ui STORE={store}, then {chart_link(outcome.experiment_id)}")
    return FAILED if outcome.failures else 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
