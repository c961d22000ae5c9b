"""What stands on the page of a store, before it is HTML."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pandas as pd

from analysis.errors import AnalysisError, StoreError
from analysis.figures.catalogue import drawing
from analysis.figures.style import styled
from analysis.layouts.catalogue import known_layouts
from analysis.reading import runs
from analysis.reading.shipped import question_of
from analysis.render.table import Table
from analysis.reports.claim_report import Options as ClaimOptions
from analysis.reports.claim_report import report as claim_report
from analysis.reports.table_report import Options, assemble

_ENDS = ("finished", "stopped", "diverged", "failed")
MOST_ROWS = 200  # of a table on the page; the command prints all
_MOST_TROUBLES = 200
_PROVENANCE = (
    *("backbone", "backbone_fingerprint", "dequantised_from", "dataset", "dataset_digest"),
    *("device", "dtype", "micro_batch", "commit", "is_dirty", "source_hash", "packages"),
)


@dataclass(frozen=True)
class Shown:
    """One table with its figure.

    Attributes:
        table: At most 200 rows of it.
        left_out: Rows beyond these.
        svg: The figure; "" where nothing can be drawn.
    """

    table: Table
    left_out: int
    svg: str


@dataclass(frozen=True)
class Ablation:
    """What one ablation left in the store.

    Attributes:
        counts: Trials by how they ended.
        hours: Wall time of all its trials together; None where none tells.
        cpu_hours: The same in CPU time.
        shown: Tables of all runs of the store that answer what it answers, unless they stand with
            an ablation before; its own where it answers no published one.
        elsewhere: Published tables that do, each with the ablation.
        why: Why a table is not there.
        records: Per-record results by arm and seed: their path from the store, else their address.
    """

    name: str
    question: str
    counts: dict[str, int]
    backbones: str
    datasets: str
    seeds: str
    hours: float | None
    cpu_hours: float | None
    shown: tuple[Shown, ...]
    elsewhere: tuple[tuple[str, str], ...]
    why: tuple[str, ...]
    records: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trouble:
    """A trial that did not finish, and why."""

    ablation: str
    arm: str
    seed: int
    status: str
    reason: str


@dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
        store: The folder's name.
        claims: Verdicts as Markdown; "" where no run tests a claim.
        troubles: At most 200 trials that did not finish; `num_troubles` counts all.
        provenance: Rows of ablation, key and values.
        lacking: Lines about trials that MLflow lacks.
    """

    store: str
    ablations: tuple[Ablation, ...]
    claims: str
    troubles: tuple[Trouble, ...]
    num_troubles: int
    provenance: tuple[tuple[str, str, str], ...]
    lacking: tuple[str, ...]


EMPTY = Page("", (), "", (), 0, (), ())  # of a store in which nothing has ended


def page_of(store: Path, measure: str | None = None, server: str | None = None) -> Page:
    """Everything that the runs of a store show.

    Args:
        store: Folder of the sweep's store.
        measure: As for the tables; None: what each published table counts.
        server: Address of the MLflow server that holds the runs; None: the store's database.

    Raises:
        StoreError: If there is no store, or no run in it.
    """
    names = runs.experiments(store, server)
    found = {name: runs.read_runs(store, name, server) for name in names}
    found = {name: rows for name, rows in found.items() if not rows.empty}
    if not found:
        raise StoreError(f"store={store}: no trial in it has ended yet")
    tables = _Tables(Options(store, measure, server=server))
    troubles = [trouble for name, rows in found.items() for trouble in _troubles(name, rows)]
    lacking = runs.lacking(store, server)
    return Page(
        store=store.resolve().name,
        ablations=tuple(_ablation(name, rows, tables, store) for name, rows in found.items()),
        claims=_claims(store, measure, server),
        troubles=tuple(troubles[:_MOST_TROUBLES]),
        num_troubles=len(troubles),
        provenance=tuple(line for name, rows in found.items() for line in _provenance(name, rows)),
        lacking=tuple(runs.lacking_line(*each, store, server) for each in lacking.items()),
    )


class _Tables:
    """The tables of a store, each made once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._made: dict[str, str] = {}  # table -> ablation that it stands with

    def of(
        self, ablation: str, rows: pd.DataFrame
    ) -> tuple[list[Shown], list[tuple[str, str]], list[str]]:
        """An ablation's tables, those that stand with another one, and why some are not there."""
        tags = [runs.papers_of(tag) for tag in dict.fromkeys(rows["paper"])]
        papers = [name for tag in tags for name in tag if name in known_layouts()]
        shown: list[Shown] = []
        elsewhere: list[tuple[str, str]] = []
        why: list[str] = []
        for name in dict.fromkeys(papers) or [ablation]:
            if name in self._made:
                elsewhere.append((name, self._made[name]))
                continue
            self._made[name] = ablation
            try:
                shown += map(_shown, assemble(name, self._options))
            except AnalysisError as error:
                why.append(str(error))
        return shown, elsewhere, why


def _ablation(name: str, rows: pd.DataFrame, tables: _Tables, store: Path) -> Ablation:
    shown, elsewhere, why = tables.of(name, rows)
    statuses = Counter(rows["status"])
    return Ablation(
        name=name,
        question=question_of(name),
        counts={end: statuses.pop(end, 0) for end in _ENDS} | {"other": statuses.total()},
        backbones=_joined(rows["backbone"]),
        datasets=_joined(rows["dataset"]),
        seeds=", ".join(map(str, sorted(set(rows["seed"])))),
        hours=_hours(rows, "seconds"),
        cpu_hours=_hours(rows, "cpu_seconds"),
        shown=tuple(shown),
        elsewhere=tuple(elsewhere),
        why=tuple(why),
        records=tuple(
            (f"{row['arm']}, seed {row['seed']}", _from_store(row["records"], store))
            for row in rows.sort_values(["arm", "seed"]).to_dict("records")
            if row["records"]
        ),
    )


def _shown(table: Table) -> Shown:
    try:
        with styled():
            drawn = io.StringIO()
            figure = drawing(table.name, "auto")(table)
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            svg = drawn.getvalue()
    except AnalysisError:
        svg = ""
    return Shown(table, max(0, len(table.rows) - MOST_ROWS), svg)


def _claims(store: Path, measure: str | None, server: str | None) -> str:
    try:
        return claim_report((), ClaimOptions((store,), measure, server), "markdown")
    except AnalysisError:
        return ""  # no ablation in the store tests a claim


def _troubles(name: str, rows: pd.DataFrame) -> list[Trouble]:
    ended = rows[rows["status"] != "finished"].sort_values(["status", "arm", "seed"])
    return [
        Trouble(name, row["arm"], row["seed"], row["status"], row["error"] or row["stop_reason"])
        for row in ended.to_dict("records")
    ]


def _provenance(name: str, rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    lines = [(name, key, _joined(rows[key])) for key in _PROVENANCE]
    return [line for line in lines if line[2]]


def _from_store(address: str, store: Path) -> str:
    """A file below the store by its path from there, which holds wherever the store is copied."""
    path = Path(unquote(urlsplit(address).path))
    is_below = path.is_absolute() and path.is_relative_to(store.resolve())
    return quote(path.relative_to(store.resolve()).as_posix()) if is_below else address


def _hours(rows: pd.DataFrame, metric: str) -> float | None:
    seconds = [metrics[metric] for metrics in rows["metrics"] if metric in metrics]
    return sum(seconds) / 3600 if seconds else None


def _joined(values: pd.Series[str]) -> str:
    return ", ".join(sorted({str(value) for value in values if value != ""}))
