"""Parses the `key=value` options of the commands of this package; imports nothing heavy."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path

# What every command reads: which stores, and what it shows of them.
SHARED: Mapping[str, str] = {"store": "results", "mlflow": "", "measure": ""}
SHARED_HELP = """\
options, as key=value:
  store=FOLDER     the sweep's store (default results); several, as store=FOLDER,FOLDER, are read
                   as one, of the same arm and seed the newest trial that finished; a folder whose
                   name holds a comma cannot be named
  mlflow=ADDRESS   the MLflow server that the sweep wrote to; default: the store's own database
  measure=MEASURE  token (teacher-forced token accuracy), exact (every token right), generated
                   (free greedy answer) or token_no_blank (token without a target's first token
                   where that is a blank alone); default: what the published table counts, token
                   where there is none or its digits do not tell
"""


def table_parser(program: str, noun: str, description: str, epilog: str) -> ArgumentParser:
    """The parser of a command that takes one name of a table or figure, options, or `--list`.

    Args:
        program: The command's file.
        noun: What it prints, in the singular.
        description: What it does.
        epilog: What its options mean.
    """
    made = ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
    )
    made.add_argument(noun, nargs="?", help="a name of --list, or of an ablation")
    made.add_argument("options", nargs="*", metavar="key=value", help="see below")
    made.add_argument("--list", action="store_true", help=f"list every {noun} that there is")
    return made


def only_name(names: Sequence[str], noun: str) -> str:
    """The one name among the words that were typed.

    Raises:
        ValueError: If there is none, or several.
    """
    if len(names) == 1:
        return names[0]
    asked = f"{len(names)} {noun}s were named" if names else f"no {noun} was named"
    raise ValueError(f"{asked}; name one, such as lemoe_table9 (--list shows them)")


def parse_options(
    words: Sequence[str], further: Mapping[str, str], choices: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The words without `=`, and all options with the defaults filled in.

    Args:
        words: As typed.
        further: Options besides `SHARED`, with their defaults.
        choices: The values that some of these allow.

    Raises:
        ValueError: If a key is no option or typed twice, or a value not among its choices.
    """
    from analysis.metrics import MEASURES  # here: --help does not wait for it

    defaults, allowed = {**SHARED, **further}, {"measure": MEASURES, **choices}
    typed: dict[str, str] = {}
    for key, _, value in (word.partition("=") for word in words if "=" in word):
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown option {key!r}; {hint}known: {', '.join(defaults)}")
        if key in allowed and value not in allowed[key]:
            raise ValueError(f"{key} is {value!r}; it must be one of {', '.join(allowed[key])}")
        if key in typed:
            raise ValueError(f"{key} is typed twice: {typed[key]} and {value}")
        typed[key] = value
    return tuple(word for word in words if "=" not in word), {**defaults, **typed}


def store_folders(options: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders that `store=` names, in the order typed.

    Args:
        options: As `parse_options` returns them.

    Raises:
        ValueError: If a name is empty, a folder is named twice, or its name holds a comma.
    """
    typed = options["store"]
    if "," in typed and Path(typed).is_dir():
        raise ValueError(f"store={typed}: a folder whose name holds a comma cannot be read")
    if not all(typed.split(",")):
        raise ValueError(f"store={typed} names no folder in one place; write store=FOLDER,FOLDER")
    found: dict[Path, str] = {}
    for name in typed.split(","):
        place = Path(name).resolve()
        if place in found:
            told = f"{found[place]} and {name} are the same folder"
            raise ValueError(f"store={typed} names a folder twice: {told}")
        found[place] = name
    return tuple(map(Path, found.values()))
