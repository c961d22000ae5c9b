"""Which locality of a data set the papers print: its file in `search_spaces/dataset` says so.

A trial scores each kind of locality question under a name of its own, `locality_far`,
`locality_near`, `locality_same`; tables and claims speak of one `locality`, under which the kind
of the data set is read. It is a matter of reading: results of a time at which no file said so are
read by the same rule.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "search_spaces" / "dataset"
LOCALITY = "locality"
USUAL = "locality_far"  # also of a data set that has no file here


@cache
def published_locality(dataset: str, folder: Path = FOLDER) -> str:
    """Name of the score that is the data set's published locality, as `locality_near`.

    Args:
        dataset: Name of a data set; one whose file builds on another (`base`) shares its kind.
        folder: Where the files lie.
    """
    seen = set[str]()
    while dataset not in seen and (file := folder / f"{dataset}.yaml").is_file():
        seen.add(dataset)
        content = yaml.safe_load(file.read_text("utf-8")) or {}
        if kind := content.get("locality"):
            return f"locality_{kind}"
        dataset = str(content.get("base"))
    return USUAL


@cache  # a few names, a million times
def named_in_tables(score: str, dataset: str) -> str:
    """`score`, or `locality` in place of the kind that the data set's is."""
    first, dot, rest = score.partition(".")
    return f"{LOCALITY}{dot}{rest}" if first == published_locality(dataset) else score
