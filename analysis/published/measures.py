"""The measure that a published table is in, told by its digits where they tell one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from analysis.errors import PaperNumbersError
from analysis.metrics import MEASURES
from analysis.published.paper_numbers import FOLDER, read

USUAL = "token"


@dataclass(frozen=True)
class PublishedMeasure:
    """What a published table counts.

    Attributes:
        measure: One of `metrics.MEASURES`.
        why: What says so.
    """

    measure: str
    why: str


@cache
def published_measures(folder: Path = FOLDER) -> dict[str, PublishedMeasure]:
    """The measures of all tables, from `paper_tables/measures.csv`.

    Raises:
        PaperNumbersError: If the file is missing, or names a measure that there is not.
    """
    found = {}
    for row in read("measures", ("table", "measure", "why"), folder):
        if row["measure"] not in MEASURES:
            allowed = ", ".join(MEASURES)
            raise PaperNumbersError(
                f"measures.csv: {row['table']}: measure is {row['measure']!r}; allowed: {allowed}"
            )
        found[row["table"]] = PublishedMeasure(row["measure"], row["why"])
    return found


def measure_of(tables: Collection[str]) -> str:
    """The measure that these tables are in, all of them; the usual one if they differ."""
    known = published_measures()
    measures = {known[table].measure for table in tables if table in known}
    return measures.pop() if len(measures) == 1 else USUAL
