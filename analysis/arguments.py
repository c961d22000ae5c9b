"""Parses the `key=value` options of the commands of this package; imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

# What every command reads: which store, and what it shows of it.
SHARED: Mapping[str, str] = {"store": "results", "mlflow": "", "measure": ""}
SHARED_HELP = """\
options, as key=value:
  store=FOLDER     the sweep's store (default results)
  mlflow=ADDRESS   the MLflow server that the sweep wrote to; default: the store's own database
  measure=MEASURE  token (teacher-forced token accuracy), exact (every token right), generated
                   (free greedy answer) or token_no_blank (token without a target's first token
                   where that is a blank alone); default: what the published table counts, token
                   where there is none or its digits do not tell
"""


def parse_options(
    words: Sequence[str], further: Mapping[str, str], choices: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The words without `=`, and all options with the defaults filled in.

    Args:
        words: As typed.
        further: Options besides `SHARED`, with their defaults.
        choices: The values that some of these allow.

    Raises:
        ValueError: If a key is no option, or a value not among its choices.
    """
    from analysis.metrics import MEASURES  # here: --help does not wait for it

    defaults, allowed = {**SHARED, **further}, {"measure": MEASURES, **choices}
    options = dict(defaults)
    for key, _, value in (word.partition("=") for word in words if "=" in word):
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown option {key!r}; {hint}known: {', '.join(defaults)}")
        if key in allowed and value not in allowed[key]:
            raise ValueError(f"{key} is {value!r}; it must be one of {', '.join(allowed[key])}")
        options[key] = value
    return tuple(word for word in words if "=" not in word), options
