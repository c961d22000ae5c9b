"""Renders tables as Markdown, CSV or LaTeX; the only place where a score becomes text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.aggregate import Estimate

_DIGITS = 6  # of a score in a CSV
PRINTED_DIGITS = 2  # elsewhere, as the papers print
FORMATS = ("markdown", "csv", "latex")


@dataclass(frozen=True)
class Entry:
    """One cell: ours (or why there is no mean) and the paper's (or why there is none).

    `paper` is None in tables that have no published counterpart.
    """

    ours: Estimate | str
    paper: float | str | None = None


@dataclass(frozen=True)
class Row:
    """One line of a table: its labels, then its cells."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """One printed table.

    Attributes:
        name: Id of the published table or figure, or the ablation's name.
        labels: Headings of the label columns.
        scores: Heading of each score column by its key, which names the CSV column.
        context: Backbone, data, protocol and the like: columns in CSV, lines above other tables.
        notes: Lines below the context, above the table.
        footer: Lines below the table.
        digits: Decimals by score, for scores with other than two.
        groups: Label of the group that a score column is of, which its heading begins with.
    """

    title: str
    labels: tuple[str, ...]
    scores: Mapping[str, str]
    rows: tuple[Row, ...]
    context: Mapping[str, str]
    notes: tuple[str, ...] = ()
    footer: tuple[str, ...] = field(default=())
    digits: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    name: str = ""


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
    lines = [line for table in tables for line in (table.title, *table.notes, *table.footer)]
    return "\n".join(lines) + "\n"


def entry_text(entry: Entry, digits: int = PRINTED_DIGITS) -> str:
    """A cell in two decimals: `0.83 ± 0.05 (3) / 0.80`, with `[low, high]` for a bootstrap."""
    ours, paper = entry_parts(entry, digits)
    return ours if paper is None else f"{ours} / {paper}"


def entry_parts(entry: Entry, digits: int = PRINTED_DIGITS) -> tuple[str, str | None]:
    """What `entry_text` puts before and behind the stroke; None where there is none."""
    ours = entry.ours if isinstance(entry.ours, str) else estimate_text(entry.ours, digits)
    paper = entry.paper
    return ours, f"{paper:.{digits}f}" if isinstance(paper, int | float) else paper


def estimate_text(estimate: Estimate, digits: int = PRINTED_DIGITS) -> str:
    """Mean, interval if there is one, and number of seeds in brackets."""
    text, low, high = f"{estimate.mean:.{digits}f}", estimate.low, estimate.high
    if low is not None and high is not None:
        half = f" ± {(high - low) / 2:.{digits}f}"
        text += half if estimate.source == "t" else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} ({estimate.num_seeds})"


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
    return f"## {table.title}\n\n{above}\n\n{body}\n" + (f"\n{below}" if below else "")


def _latex(table: Table) -> str:
    above = "".join(f"% {line}\n" for line in (table.title, *_lines(table)))
    below = "".join(f"% {line}\n" for line in table.footer)
    return above + str(_texts(table).to_latex(index=False, escape=True)) + below
