"""Renders tables as Markdown, CSV or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.render.table import PRINTED_DIGITS, Entry, Table, entry_text

_DIGITS = 6  # of a score in a CSV
FORMATS = ("markdown", "csv", "latex")


def render(tables: Sequence[Table], form: str) -> str:
    """The tables as text in one of `FORMATS`, ending in a line break.

    Markdown and LaTeX print scores with two decimals, as the paper does, and carry all notes. CSV
    is one frame of numbers with a column for each item of the context; `notes` gives the rest.
    """
    if form == "csv":
        return str(pd.concat([_numbers(table) for table in tables]).to_csv(index=False))
    if form == "latex":
        return "\n".join(_latex(table) for table in tables)
    return "\n".join(_markdown(table) for table in tables)


def notes(tables: Sequence[Table]) -> str:
    """The lines around tables, which a CSV leaves out."""
    lines = [line for table in tables for line in (table.heading, *table.notes, *table.footer)]
    return "\n".join(lines) + "\n"


def _texts(table: Table) -> pd.DataFrame:
    digits = [table.digits.get(name, PRINTED_DIGITS) for name in table.scores]
    lines = [(*row.labels, *map(entry_text, row.entries, digits)) for row in table.rows]
    return pd.DataFrame(lines, columns=[*table.labels, *table.scores.values()])


def _numbers(table: Table) -> pd.DataFrame:
    lines = []
    for row in table.rows:
        line: dict[str, object] = {"table": table.title, **table.context}
        line |= dict(zip(table.labels, row.labels, strict=True))
        for key, entry in zip(table.scores, row.entries, strict=True):
            line |= _cells(key, entry)
        lines.append(line)
    return pd.DataFrame(lines)


def _cells(key: str, entry: Entry) -> dict[str, object]:
    ours, cells = entry.ours, dict[str, object]()
    if isinstance(ours, str):
        cells |= {key: ours, f"{key}_low": "none", f"{key}_high": "none"}
        cells |= {f"{key}_interval": "none", f"{key}_seeds": 0}
    else:
        low = "none" if ours.low is None else round(ours.low, _DIGITS)
        high = "none" if ours.high is None else round(ours.high, _DIGITS)
        cells |= {key: round(ours.mean, _DIGITS), f"{key}_low": low, f"{key}_high": high}
        cells |= {f"{key}_interval": ours.source, f"{key}_seeds": ours.num_seeds}
    return cells if entry.paper is None else cells | {f"{key}_paper": entry.paper}


def _lines(table: Table) -> list[str]:
    return [f"{key}: {value}" for key, value in table.context.items()] + list(table.notes)


def _markdown(table: Table) -> str:
    body = _texts(table).to_markdown(index=False, disable_numparse=True)
    above = "\n".join(f"- {line}" for line in _lines(table))
    below = "".join(f"- {line}\n" for line in table.footer)
    return f"## {table.heading}\n\n{above}\n\n{body}\n" + (f"\n{below}" if below else "")


def _latex(table: Table) -> str:
    above = "".join(f"% {line}\n" for line in (table.heading, *_lines(table)))
    below = "".join(f"% {line}\n" for line in table.footer)
    return above + str(_texts(table).to_latex(index=False, escape=True)) + below
