"""What stands on the page of a store, or of several, before it is HTML."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from analysis.errors import AnalysisError, StoreError
from analysis.figures.catalogue import drawing
from analysis.figures.style import styled
from analysis.layouts.catalogue import known_layouts
from analysis.published.claim_checks import Verdict
from analysis.reading import runs
from analysis.reading.shipped import Deviation, deviations_of, question_of
from analysis.reading.store_names import names_of
from analysis.render.table import Table
from analysis.reports import claim_report
from analysis.reports.table_report import Options, assemble

_ENDS = ("finished", "stopped", "diverged", "failed")
MOST_ROWS = 200  # of a table on the page; the command prints all
_MOST_TROUBLES = 200
_PROVENANCE = (
    *("backbone", "backbone_fingerprint", "dequantised_from", "dataset", "dataset_digest"),
    *("device", "dtype", "micro_batch", "commit", "is_dirty", "source_hash", "packages", "store"),
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
class Ran:
    """What one ablation ran on one backbone and data set.

    Attributes:
        counts: Trials by how they ended.
        hours: Wall time of all its trials together; None where none tells.
        cpu_hours: The same in CPU time.
    """

    backbone: str
    dataset: str
    seeds: str
    counts: dict[str, int]
    hours: float | None
    cpu_hours: float | None


@dataclass(frozen=True)
class Records:
    """Per-record results of one trial.

    Attributes:
        trial: Which, in words.
        store: Number of the store that holds them, from 0; None if they lie elsewhere.
        path: From there, as part of a link; else their address.
    """

    trial: str
    store: int | None
    path: str


@dataclass(frozen=True)
class Ablation:
    """What one ablation left in the stores.

    Attributes:
        ran: By backbone and data set.
        shown: Tables of all runs of the stores that answer what it answers, unless they stand with
            an ablation before; its own where it answers no published one.
        elsewhere: Published tables that do, each with the ablation.
        why: Why a table is not there.
        records: Of all its trials, by arm and seed.
    """

    name: str
    question: str
    ran: tuple[Ran, ...]
    shown: tuple[Shown, ...]
    elsewhere: tuple[tuple[str, str], ...]
    why: tuple[str, ...]
    records: tuple[Records, ...]


@dataclass(frozen=True)
class Trouble:
    """A trial that did not finish, on which backbone and data, and why."""

    ablation: str
    arm: str
    on: str
    seed: int
    status: str
    reason: str


@dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
        stores: The folders' names.
        claims: Verdicts as Markdown; "" where no run tests a claim.
        verdicts: By backbone and data set, the published claims of each verdict.
        deviations: From what the papers state, of the methods that ran for their tables.
        troubles: At most 200 trials that did not finish; `num_troubles` counts all.
        provenance: Rows of ablation, backbone and data, key and values.
        lacking: Lines about trials that MLflow lacks.
    """

    stores: tuple[str, ...]
    ablations: tuple[Ablation, ...]
    claims: str
    verdicts: Mapping[str, Mapping[Verdict, tuple[str, ...]]]
    deviations: tuple[Deviation, ...]
    troubles: tuple[Trouble, ...]
    num_troubles: int
    provenance: tuple[tuple[str, str, str, str], ...]
    lacking: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it is a page of."""
        return self.stores[0] if len(self.stores) == 1 else f"{len(self.stores)} stores"


EMPTY = Page(("",), (), "", {}, (), (), 0, (), ())  # of a store in which nothing has ended


def page_of(stores: Sequence[Path], measure: str | None = None, server: str | None = None) -> Page:
    """Everything that the runs of some stores show.

    Args:
        stores: Folders of sweeps' stores, which are read as one.
        measure: As for the tables; None: what each published table counts.
        server: Address of the MLflow server that holds the runs; None: the stores' databases.

    Raises:
        StoreError: If one of them is no store, or no run is in any.
    """
    names = runs.experiments(stores, server)
    found = {name: runs.read_runs(stores, name, server) for name in names}
    found = {name: rows for name, rows in found.items() if not rows.empty}
    if not found:
        raise StoreError(f"{runs.named(stores, server)}: no trial in it has ended yet")
    tables = _Tables(Options(tuple(stores), measure, server=server))
    places = [store.resolve() for store in stores]
    claims, verdicts = _claims(tuple(stores), measure, server)
    troubles = [trouble for name, rows in found.items() for trouble in _troubles(name, rows)]
    return Page(
        stores=names_of(stores),
        ablations=tuple(_ablation(name, rows, tables, places) for name, rows in found.items()),
        claims=claims,
        verdicts=verdicts,
        deviations=deviations_of(_methods_by_paper(found.values())),
        troubles=tuple(troubles[:_MOST_TROUBLES]),
        num_troubles=len(troubles),
        provenance=tuple(line for name, rows in found.items() for line in _provenance(name, rows)),
        lacking=tuple(runs.lacking_line(each, server) for each in runs.lacking(stores, server)),
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


def _ablation(name: str, rows: pd.DataFrame, tables: _Tables, places: Sequence[Path]) -> Ablation:
    shown, elsewhere, why = tables.of(name, rows)
    return Ablation(
        name=name,
        question=question_of(name),
        ran=tuple(map(_ran, _by_context(rows))),
        shown=tuple(shown),
        elsewhere=tuple(elsewhere),
        why=tuple(why),
        records=_records(rows, places),
    )


def _by_context(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each backbone and data set, in alphabetical order."""
    return [group for _, group in rows.groupby(["backbone", "dataset"])]


def _on(row: Mapping[str, str]) -> str:
    return _on_both(row["backbone"], row["dataset"])


def _on_both(backbone: str, dataset: str) -> str:
    """Backbone and data set in a word or two."""
    return ", ".join(dict.fromkeys((backbone, dataset)))


def _ran(rows: pd.DataFrame) -> Ran:
    statuses = Counter(rows["status"])
    return Ran(
        backbone=rows["backbone"].iloc[0],
        dataset=rows["dataset"].iloc[0],
        seeds=", ".join(map(str, sorted(set(rows["seed"])))),
        counts={end: statuses.pop(end, 0) for end in _ENDS} | {"other": statuses.total()},
        hours=_hours(rows, "seconds"),
        cpu_hours=_hours(rows, "cpu_seconds"),
    )


def _records(rows: pd.DataFrame, places: Sequence[Path]) -> tuple[Records, ...]:
    """The files of all trials; what is told of a trial tells it from the others."""
    trials = [
        row
        for row in rows.sort_values(["arm", "seed", "backbone", "dataset"]).to_dict("records")
        if row["records"]
    ]
    contexts = len(set(map(_on, trials)))
    names = [
        f"{row['arm']}, seed {row['seed']}" + (f", {_on(row)}" if contexts > 1 else "")
        for row in trials
    ]
    met = Counter(names)
    return tuple(
        Records(
            f"{name}, commit {row['commit'][:12]}" if met[name] > 1 else name,
            *_from_store(row["records"], places),
        )
        for name, row in zip(names, trials, strict=True)
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


def _claims(
    stores: tuple[Path, ...], measure: str | None, server: str | None
) -> tuple[str, dict[str, dict[Verdict, tuple[str, ...]]]]:
    """The verdicts, as text and counted; nothing where no ablation in the stores tests a claim."""
    try:
        judged = claim_report.judge((), claim_report.Options(stores, measure, server))
    except AnalysisError:
        return "", {}
    text = claim_report.report_of(judged, "markdown")
    return text, {_on_both(*context): each for context, each in judged.verdicts().items()}


def _methods_by_paper(found: Iterable[pd.DataFrame]) -> dict[str, set[str]]:
    """The methods that ran for tables of each paper."""
    ran: dict[str, set[str]] = {}
    for rows in found:
        for tag, method in set(zip(rows["paper"], rows["method"], strict=True)):
            for table in runs.papers_of(tag):
                ran.setdefault(runs.paper_of(table), set()).add(method)
    return ran


def _troubles(name: str, rows: pd.DataFrame) -> list[Trouble]:
    ended = rows[rows["status"] != "finished"].sort_values(["status", "arm", "seed"])
    return [
        Trouble(
            *(name, row["arm"], _on(row), row["seed"], row["status"]),
            row["error"] or row["stop_reason"],
        )
        for row in ended.to_dict("records")
    ]


def _provenance(name: str, rows: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    lines = [
        (name, _on(group.iloc[0]), key, _joined(group[key]))
        for group in _by_context(rows)
        for key in _PROVENANCE
    ]
    return [line for line in lines if line[-1]]


def _from_store(address: str, places: Sequence[Path]) -> tuple[int | None, str]:
    """A file below a store by the path from there, which holds wherever the store is copied."""
    path = runs.path_of(address)
    if path is not None:
        for number, place in enumerate(places):
            if path.is_relative_to(place):
                return number, quote(path.relative_to(place).as_posix())
    return None, address


def _hours(rows: pd.DataFrame, metric: str) -> float | None:
    seconds = [metrics[metric] for metrics in rows["metrics"] if metric in metrics]
    return sum(seconds) / 3600 if seconds else None


def _joined(values: pd.Series[str]) -> str:
    return ", ".join(sorted({str(value) for value in values if value != ""}))
