"""Makes an experiment's description: its question, then its tables as far as they fit; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST = 5000  # characters of an experiment's tag that every MLflow takes
_MARK = "<!-- What stands below is written anew by every sweep. -->"
_MORE = "Not all of it fits here: `analysis/table.py` prints the rest."


def note_of(standing: str, tables: Sequence[str], report: str = "", most: int = MOST) -> str:
    """The description with these tables.

    Args:
        standing: The description as it stands; what is above the mark is kept, which is the
            question or what somebody wrote in MLflow.
        tables: As `analysis/table.py` prints them, in Markdown: headings, notes and rows.
        report: Address of the run with report and figures; "" without one.
        most: Characters that fit; rows from the last on are left out to hold it.
    """
    head = f"{standing.partition(_MARK)[0].strip()}\n\n{_MARK}\n\n"
    head += f"[Report and figures]({report})\n\n" if report else ""
    parts = [part for text in tables for part in re.split(r"(?m)^(?=## )", text) if part.strip()]
    note = head
    for part in map(_narrow, parts):
        shown = _fitted(part, most - len(note) - len(_MORE) - 2)
        note += shown
        if shown != part:
            return f"{note.strip()}\n\n{_MORE}\n"
    return note.strip() + "\n"


def measure_of(tables: Sequence[str]) -> str:
    """The measure in which the first table is, such as `exact`; "" where none says so."""
    found = re.search(r"(?m)^- measure: (\w+)", "\n".join(tables))
    return found[1] if found else ""


def _narrow(table: str) -> str:
    """A table without the blanks that only line up its columns."""
    lines = [
        re.sub(r" {2,}", " ", re.sub(r":?-{2,}:?", "---", line)) if line.startswith("|") else line
        for line in table.strip().splitlines()
    ]
    return "\n".join(lines) + "\n\n"


def _fitted(table: str, most: int) -> str:
    """The first lines of a table that fit, down to its first row; "" where that does not."""
    if len(table) <= most:
        return table
    lines = table.splitlines(keepends=True)
    first = next((at for at, line in enumerate(lines) if line.startswith("|")), len(lines)) + 3
    while lines and sum(map(len, lines)) > most:
        lines.pop()
    return "".join(lines) + "\n" if len(lines) >= first else ""
