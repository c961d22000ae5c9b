"""Parses the options and words that are typed behind `sweep.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from orchestrator.errors import UsageError
from orchestrator.terminal.completing import keys, offers, words

if TYPE_CHECKING:
    from orchestrator.store.settled import Options


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line, as all other code does."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UsageError(f"{message}; see --help")


def parser() -> Parser:
    """The parser of options and free key=value arguments."""
    made = Parser(
        prog="sweep.py",
        description="Sweep an ablation; the same command again goes on where it stopped.",
        epilog="keys: search_spaces/README.md; for example ablation=lemoe_lora seeds=[0,1]",
    )
    offers(made.add_argument("overrides", nargs="*", metavar="key=value"), words)
    instead = made.add_mutually_exclusive_group()  # of running the sweep
    instead.add_argument(
        "--list", action="store_true", help="every ablation with its question, every backbone"
    )
    instead.add_argument("--dry-run", action="store_true", help="the plan and its forecast")
    instead.add_argument("--status", action="store_true", help="how far the sweeps of a store are")
    instead.add_argument("--sync", action="store_true", help="write the ledger into MLflow again")
    instead.add_argument(
        "--write-answers",
        type=Path,
        metavar="FILE",
        help="the answers of a serial plan's questions, for dataset.answers",
    )
    explain = instead.add_argument(
        "--explain", metavar="KEY", help="what a key means; with ablation=NAME, its values there"
    )
    offers(explain, keys)
    instead.add_argument("--new", metavar="NAME", help="write an ablation's file to begin with")
    made.add_argument(
        "--simulate-gpus",
        type=gpu_counts,
        default=(),
        metavar="N[,N]",
        help="with --dry-run: the plan's time on clusters of N GPUs",
    )
    made.add_argument(
        "--watch", action="store_true", help="with --status: again every 5 seconds, until all ended"
    )
    made.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    made.add_argument("--complete-stopped", action="store_true", help="run stopped ones to the end")
    made.add_argument("--fresh", action="store_true", help="run finished trials anew, too")
    return made


def check_together(typed: argparse.Namespace) -> None:
    """Checks that each word typed has an effect beside the options.

    Raises:
        UsageError: For one that would be passed over.
    """
    if typed.watch and not typed.status:
        raise UsageError("--watch goes with --status")
    if typed.simulate_gpus and not typed.dry_run:
        raise UsageError("--simulate-gpus goes with --dry-run")
    if typed.list and typed.overrides:
        raise UsageError(f"{typed.overrides[0]}: nothing else counts with --list")
    instead = {
        "--list": typed.list,
        "--status": typed.status,
        "--sync": typed.sync,
        "--write-answers": typed.write_answers is not None,
        "--explain": typed.explain is not None,
        "--new": typed.new is not None,
    }
    again = {
        "--retry-failed": typed.retry_failed,
        "--complete-stopped": typed.complete_stopped,
        "--fresh": typed.fresh,
    }
    runs_nothing = [option for option, is_typed in instead.items() if is_typed]
    for option, is_typed in again.items():
        if is_typed and runs_nothing:
            raise UsageError(
                f"{option}: it is for a sweep and its --dry-run; {runs_nothing[0]} runs no trial"
            )


def options(typed: argparse.Namespace) -> Options:
    """Which settled trials are to run again."""
    from orchestrator.store.settled import Options  # a thirtieth of --list's time

    return Options(typed.retry_failed, typed.complete_stopped, typed.fresh)


def gpu_counts(typed: str) -> tuple[int, ...]:
    """The numbers of GPUs in a list separated by commas."""
    words = typed.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{typed}: give numbers from 1 up, such as 8,64,1024")
    return tuple(int(word) for word in words)
