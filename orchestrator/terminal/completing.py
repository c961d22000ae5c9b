"""What a shell offers behind the words that are typed so far, by way of argcomplete.

`activate-global-python-argcomplete`, a command of argcomplete, makes bash and zsh ask.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from orchestrator.settings.yaml_files import GROUPS, SearchSpaces


def offers(action: argparse.Action, offered: Callable[[str, SearchSpaces], list[str]]) -> None:
    """Say what an argument may be; argcomplete looks for it at the argument itself."""
    vars(action)["completer"] = lambda prefix, **_: offered(prefix, SearchSpaces())


def words(begun: str, spaces: SearchSpaces) -> list[str]:
    """The `key=value` arguments that begin so: names of a group, or keys without a value."""
    key, is_given, _ = begun.partition("=")
    if is_given:
        offered = [f"{key}={name}" for name in spaces.names(key)] if key in GROUPS else []
    else:
        offered = [f"{each}=" for each in keys(begun, spaces)]
    return sorted({each for each in offered if each.startswith(begun)})


def keys(begun: str, spaces: SearchSpaces) -> list[str]:
    """The keys that begin so and can be explained."""
    from orchestrator.terminal.explaining import explanations

    return sorted(each for each in explanations(spaces) if each.startswith(begun))
